"""`ltx export RUN DIR`: a ticket as a folder that works without ltx."""

from __future__ import annotations

from ltx.cli.look import options, output_root, print_times, reference, told
from ltx.errors import BadInput, nearest

FORMATS = ("torch", "onnx")


def export(arguments: list[str]) -> int:
    """Write a ticket as safetensors with a loader in plain torch and a model card; print its sizes and times."""
    words, found = options(arguments, (), ("format", "scores", "overwrite", "root", "trust"))
    if len(words) != 2:
        raise BadInput(
            "export takes a ticket and a folder: RUN, RUN:seed or RUN:seed:level (ltx status lists the runs), and DIR."
        )
    kind = found.get("format", "torch")
    if kind not in FORMATS:
        raise BadInput(f"format={kind} is unknown{nearest(kind, FORMATS)}")
    overwrite, trust, scores = told(found, "overwrite"), told(found, "trust"), told(found, "scores", True)
    path, seed, level = reference(words[0], output_root(found))

    from ltx.api import open_run
    from ltx.export.build import Export, examples
    from ltx.export.card import card
    from ltx.export.folder import CARD, LOADER, ONNX, place, write
    from ltx.export.onnx import check_installed, onnx_of
    from ltx.export.restore import SCORES, TICKET
    from ltx.identity.measure import Known

    folder = place(words[1], overwrite)
    if kind == "onnx":
        check_installed()
    known = Known.of(open_run(path, trust), seed, level)
    made = Export.of(known, scores)
    contents = {TICKET: made.content, LOADER: made.program.encode()}
    if made.scores is not None:
        contents[SCORES] = made.scores
    if kind == "onnx":
        contents[ONNX] = onnx_of(made.network(), examples(known, 2))
    times = made.times()
    contents[CARD] = card(made, times, contents).encode()
    write(made, folder, contents)
    print_times(made, times)
    print(f"export: {folder}")
    return 0
