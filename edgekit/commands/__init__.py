"""What the commands do: each joins the rooms of the house into one step from file to file."""
