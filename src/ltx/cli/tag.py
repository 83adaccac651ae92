"""`ltx tag`: give words to a run, by which it is found again."""

from __future__ import annotations

from ltx.cli.look import options, output_root
from ltx.errors import BadInput, Failed, nearest


def tag(arguments: list[str]) -> int:
    """Add words to a run's tags, or remove them, and print the tags it then has."""
    from ltx.store.claims import Claim
    from ltx.store.find import find_run
    from ltx.store.tags import TAG, tags, write_tags

    words, found = options(arguments, ("--remove",), ("root",))
    if len(words) < 2:
        raise BadInput("tag takes a RUN and one word or more: ltx tag RUN good, or ltx tag RUN --remove good.")
    name, *given = words
    for word in given:
        if not TAG.fullmatch(word):
            raise BadInput(f"'{word}' is no tag: it should be up to 64 letters, digits, dashes, underscores and dots.")
    run = find_run(name, output_root(found))
    if "--remove" in found and (absent := [word for word in given if word not in tags(run)]):
        raise BadInput(f"{run.name} has no tag '{absent[0]}'{nearest(absent[0], tags(run))}")
    try:
        with Claim(run / "tags.lock"):  # another command may tag the run at the same time
            kept = [word for word in tags(run) if "--remove" not in found or word not in given]
            has = list(dict.fromkeys([*kept, *([] if "--remove" in found else given)]))
            write_tags(run, has)
    except OSError as error:
        raise Failed(f"the tags of {run} could not be written: {error.strerror or error}.") from error
    print(f"{run.name}: {' '.join(has) or 'no tags'}")
    return 0
