"""`edgekit inspect`: what is in a file, or what differs between two; in Netron if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from edgekit import console
from edgekit.bench.figures import check_counted
from edgekit.bench.graph_diff import GraphDiff, diff_graphs
from edgekit.bench.inspect_model import Inspection, inspect_model
from edgekit.bench.scores import ScoreConventions
from edgekit.bench.shapes import Shape
from edgekit.export.graph import load_graph
from edgekit.runtime.errors import InputError


@dataclass(frozen=True)
class Subject:
    """What to inspect: one model, or two versions of one.

    Attributes:
        before: The model; of two, the older.
        after: The newer of two; None for one.
        input_shapes: Shapes of inputs by name, for axes that are open in the files.
        conventions: What the MicroNet rules leave open.
        strict: An operator whose MACs are not counted is an error.
    """

    before: Path
    after: Path | None
    input_shapes: Mapping[str, Shape]
    conventions: ScoreConventions = field(default_factory=ScoreConventions)
    strict: bool = False

    @classmethod
    def chosen(
        cls,
        model: Path | None,
        before: Path | None,
        after: Path | None,
        input_shapes: Mapping[str, Shape],
    ) -> Subject:
        """What the arguments ask for.

        Raises:
            InputError: they name neither one model nor two, or both.
        """
        if model is not None and before is None and after is None:
            return cls(model, None, input_shapes)
        if model is None and before is not None and after is not None:
            return cls(before, after, input_shapes)
        given = {"--before": before, "--after": after}
        missing = [name for name, path in given.items() if path is None]
        if model is None and len(missing) == 1:
            raise InputError(f"{missing[0]} is missing: a comparison takes --before and --after")
        raise InputError("give one MODEL.onnx, or --before OLD.onnx and --after NEW.onnx, not both")

    def check_meant(self, *, netron: bool) -> None:
        """Refuse what has no effect on two models; `netron` says whether they are shown there.

        Raises:
            InputError: something is set that only one model has a use for.
        """
        if self.after is None:
            return
        changed = [
            f"--{entry.name.replace('_', '-')}"
            for entry in fields(self.conventions)
            if getattr(self.conventions, entry.name) != entry.default
        ]
        if self.input_shapes and not netron:
            changed.append("--input-shape")
        if self.strict:
            changed.append("--strict")
        if changed:
            raise InputError(
                f"{changed[0]} is for one model: leave it out with --before and --after"
            )

    def inspect(self) -> Inspection | GraphDiff:
        """Read the model, or compare the two.

        Raises:
            ModelFileError: a file is damaged, or an operator's shapes cannot be inferred.
        """
        if self.after is None:
            return inspect_model(self.before, self.input_shapes, self.conventions)
        return diff_graphs(load_graph(self.before), load_graph(self.after))

    def check(self, found: Inspection | GraphDiff) -> None:
        """Fail, where `strict` asks for it, if an operator's MACs are not counted.

        Raises:
            CheckFailedError: one is not.
        """
        if self.strict and isinstance(found, Inspection):
            check_counted([found.figures])


def show_in_netron(
    subject: Subject,
    found: Inspection | GraphDiff,
    report: Callable[[], None],
    *,
    results: Path | None,
    port: int,
    browse: bool,
) -> None:
    """Serve Netron's page until Ctrl-C.

    Args:
        subject: What to show.
        found: What `subject.inspect` returned.
        report: Called once the page can be fetched, so that nothing is printed where it cannot.
        results: A file of `edgekit bench --format json` with measured figures.
        port: Port on 127.0.0.1; 0 takes any free one.
        browse: Open a browser.

    Raises:
        InputError: the port is in use, or the results cannot be used.
    """
    from edgekit.bench.netron import Serving, show_comparison, show_model

    paths = [path for path in (subject.before, subject.after) if path is not None]

    def announce(url: str) -> None:
        report()
        console.say(f"Netron shows {' and '.join(map(str, paths))} at {url} until Ctrl-C")

    serving = Serving(port, browse, announce)
    if isinstance(found, GraphDiff):
        show_comparison(
            (paths[0], paths[-1]), found, subject.input_shapes, results=results, serving=serving
        )
    else:
        show_model(subject.before, subject.input_shapes, results=results, serving=serving)
