"""The ground floor: errors, files, data, sessions, accuracy. Never imports torch."""
