"""What `--help` after a command prints: its own paragraph, and for `run` every key, group and field, from the yamls."""

from __future__ import annotations

import shutil
import textwrap

from ltx.cli.fields import commented, fields, usual
from ltx.cli.listing import beside
from ltx.config.compose import choices
from ltx.config.names import CONF, GROUPS
from ltx.config.words import head_of
from ltx.errors import BadInput, nearest

PARAGRAPHS = {
    "run": """\
ltx run [FLAG...] [KEY=VALUE...]

Trains, prunes and rewinds one sweep point; the same command resumes or extends it. With -m every comma separates
values and each combination is a point.""",
    "where": """\
ltx where [-m] [--config-dir DIR] [KEY=VALUE...]

Prints the run directory that `ltx run` with the same words has or would have, and nothing else; with -m or experiment=
a line for each point. Trains nothing and writes nothing, and does not ask whether this machine has the device.""",
    "figure": """\
ltx figure NAME [KEY=VALUE...]

Runs what is missing of a paper's figure, draws it, and decides its claims: outputs/figures/NAME.png, .pdf, .csv and
.json. NAME is one of those that `ltx list figures` shows. Values may be set as for `ltx run`, as root=DIR,
workers=N or seeds=N; all arms of the figure have them. A claim that fails still ends with exit code 0.""",
    "list": """\
ltx list [methods|models|data|optim|experiments|figures] [width=W] [data=NAME] [--config-dir DIR]

Prints what can be named, as a command names it. `ltx list models width=4` shows layer sizes, parameters and
prunable weights at a width and on a data set. With --config-dir the yamls of your own are there too.""",
    "status": """\
ltx status [RUN|SWEEP...] [STATE...] [KEY=VALUE...] [sort=KEY] [--columns=KEY,KEY] [--json] [root=DIR]
ltx status --watch [RUN|SWEEP...] [root=DIR]

Prints every run and sweep under the output root: by which values the runs differ, done levels and seeds, the last test
accuracy, its age, and whether something failed; commands under way with the time left. Words choose some of the runs,
as `ltx status method=imp failed tag=good`, sort= orders them by their age or any key of a config, --columns shows
other keys. --json prints the same for a program. With --watch it shows once a second what is under way, on all machines
that share the output root: how much is done and the time left, each command, each worker with its run, seed and level,
and the processes that hold a seed and no longer move. It ends with Ctrl-C, or when all commands have ended; where its
output is no terminal, it prints a block every 10 seconds.""",
    "show": """\
ltx show RUN|SWEEP [--time] [root=DIR] [trust=true]

Prints a run's config, its table and where its plots are, or a sweep's table and the states of its points. RUN is a key,
a directory, or as much of a key or of its hash as only one run has; SWEEP is a name or a directory. With --time it
measures one ticket, RUN, RUN:seed or RUN:seed:level: milliseconds for a batch of 1 and of 256 and bytes, of the dense
network with its mask and compressed.""",
    "compare": """\
ltx compare A B [--json] [root=DIR] [trust=true]

Says whether two tickets are the same: A and B are RUN, RUN:seed or RUN:seed:level, by default the first seed and its
last level. Prints what their masks share, beside what chance shares (given each layer's count, each unit's counts, the
sizes of the initial weights) and what a search shares with itself, where its run in another data order is there; how
alike the weights are, up to rescaling and renaming of hidden units; how differently both classify; what rises on the
straight line between them. Ends with the answer in words and draws outputs/compare/A--B.png. Trains nothing.
trust=true imports code outside ltx that the configs name.""",
    "export": """\
ltx export RUN DIR [format=onnx] [scores=false] [overwrite=true] [root=DIR] [trust=true]

Writes a ticket so that it works without ltx: RUN is RUN, RUN:seed or RUN:seed:level, by default the first seed and its
last level, and DIR a folder that is not there yet. In it are ticket.safetensors (kept weights or signs, masks as bits),
load.py, which makes the network of them with torch and safetensors alone, and README.md, a model card with sizes,
accuracy and times. The logits are those of the run bit for bit, which is tried before the folder is there.
format=onnx adds ticket.onnx, scores=false leaves the scores of a search out, overwrite=true replaces an export.
ltx.load_ticket("DIR") brings the ticket back. trust=true imports code outside ltx that the config names.""",
    "diff": """\
ltx diff RUN RUN [--json] [root=DIR]

Prints in what two runs differ: the values of their configs, and their accuracies at comparable levels with the
difference seed by seed and its 95 % interval.""",
    "tail": """\
ltx tail [KEY=VALUE...] [quantile=Q] [--json] [root=DIR]

Tells whether tickets are short- or long-tailed as networks widen: for each data set and network, at equal density and
at equal kept count, from the runs of method=ticket_sample and method=ticket_split, and from the losses of 30 seeds and
more of dense, imp and edge_popup runs. For each width the tail of sampled masks, the shape of log P, and the bits that
common qualities need; then the verdict with its evidence. KEY=VALUE choose runs as for `ltx status`, quantile= is the
threshold over which the tail is fitted, --json prints one object for a program.""",
    "report": """\
ltx report [experiment=NAME | SWEEP | RUN... | figure NAME] [out=FILE] [root=DIR]

Writes one HTML page that needs no network and no other file: the points in a table that sorts and filters, accuracy
against width and against density, the density of each layer, learning curves, failures, costs, and what was run with
which versions. It is of a sweep, by its name (the newest of it) or folder, of some runs, of a figure that has been
made, with its claims, or of every run under the output root. `ltx run -m` writes it at the end of a sweep, unless
report=false. Usual places: sweeps/SWEEP/report.html, figures/NAME.html, report.html; out=FILE is another.""",
    "tag": """\
ltx tag RUN WORD... [--remove] [root=DIR]

Gives words to a run, or with --remove takes them from it: letters, digits, dashes, underscores and dots, up to 64.
`ltx status` and `ltx show` show them, `ltx status tag=WORD,WORD` lists the runs that have one of some, and wandb has
them as tags when the run is mirrored next. They change neither the run's key nor any result.""",
    "clean": """\
ltx clean RUN... | [--failed] [--partial] [--yes] [root=DIR]

Removes whole runs; or with --failed what failed seeds keep, their reasons and checkpoints, so that they are tried
again; with --partial the checkpoints of levels under way, files that killed processes left, and what was set aside as
damaged. Prints first what it is, how many bytes, and which sweeps list it, then asks; --yes does not ask. What a living
process works on stays, and so does a run that another one stands on, unless both are removed. Follows no link.""",
    "work": """\
ltx work SWEEP [workers=N] [device=D] [threads=N] [wait=true] [retry_failed=true] [root=DIR] [trust=true]

Joins a sweep that another command began, on any machine that sees its output root: trains what nobody else works on,
and leaves when others have the rest; the last one writes table, plot and page. With wait=true it stays to the end.
SWEEP is a name or a directory (ltx status lists them). Refuses where this machine would compute other numbers: another
version of ltx, other code of a class of your own, other data. trust=true imports code outside ltx that the configs
name. `ltx run -m ... hydra/launcher=slurm` submits such workers to a cluster.""",
    "cancel": """\
ltx cancel SWEEP [root=DIR]

Ends a sweep on whichever machine it is worked on: all processes end in order within seconds, and those that wait in a
queue of Slurm or Ray are taken out of it. Finished levels are kept; the sweep's own command continues it.""",
    "doctor": """\
ltx doctor [--json] [root=DIR]

Looks at this machine: versions, and whether they are those that ltx asks for and is tested with; devices, cores,
memory, free disk; whether the output root can be written and claimed; whether wandb would be online; cluster commands
and optional packages. Each line is ok, a note, or a problem with its remedy. Exits with 3 where no run is possible.
Writes nothing, and never prints a key.""",
    "complete": """\
eval "$(ltx complete)"

Lets bash complete commands, keys and values with the tab key; put the line into ~/.bashrc.""",
}
COLUMN = 23  # where what is said about a key or a flag begins
FLAGS = {
    "-m": "a sweep: width=1,2 is two points; zip=width,optim.lr goes in step; plot=KEY is the axis of its picture",
    "--dry-run": "what is done and missing, minutes and disk; writes nothing",
    "--full": "with --dry-run and -m: the config of every point too",
    "--cfg job": "the config as yaml, with --resolve its references followed",
    "--config-dir DIR": "adds yamls of your own, DIR/method/NAME.yaml and so on",
    "--help": "this page; `ltx run method=biprop --help` the fields of biprop",
}
NOTES = """\
?method.levels=2 sets a field where the chosen class has it, for sweeps over several classes; zsh wants it in quotes.

Defaults of your own: ~/.config/ltx/run.yaml, or the file that LTX_DEFAULTS names, holds keys as above with other
values (`workers: 2`, `wandb: {project: mine}`). A method's recipe, an experiment, a trunk and the command line win
over them. The output root is that of root=DIR, else LTX_OUTPUT, else that file's, else outputs."""


def help_of(command: str, words: list[str]) -> str:
    """Return the help of a command; of `run` also its keys, or the fields of the groups that `words` choose."""
    width = shutil.get_terminal_size().columns
    usage, _, paragraph = PARAGRAPHS[command].partition("\n\n")
    lines = [*textwrap.wrap(usage, width, subsequent_indent="    ", break_on_hyphens=False), ""]
    lines += textwrap.wrap(paragraph, width, break_on_hyphens=False)
    if command == "run":
        groups = [word for word in words if "=" in word and head_of(word) in GROUPS]
        launchers = [word for word in words if word.startswith("hydra/launcher=")]
        lines = fields(words, width) if groups else [*lines, *keys(width)]
        lines = launcher(launchers[-1].partition("=")[2], width) if launchers else lines
    return "\n".join(lines) + "\n"


def launcher(name: str, width: int) -> list[str]:
    """Return what a launcher is told: its keys with their values, and what they mean. Raises BadInput."""
    from hydra_plugins.ltx_plugins import LAUNCHERS, keys_of

    if name not in LAUNCHERS:
        raise BadInput(f"hydra/launcher={name} is unknown{nearest(name, [*LAUNCHERS])}")
    lines = [f"hydra/launcher={name}", ""]
    for kind in reversed(LAUNCHERS[name].__mro__[:-1]):
        lines += [line for part in (kind.__doc__ or "").split("\n") for line in textwrap.wrap(part.strip(), width)] + [
            ""
        ]
    for key, value in keys_of(name).items():
        lines.append(f"  launcher.{key}={'null' if value is None else str(value).lower()}")
    return lines


def keys(width: int) -> list[str]:
    """Return the flags, the groups with their choices, and the top-level keys with their comments in run.yaml."""
    made = usual()
    lines = ["", "flags:"]
    lines += [line for flag, said in FLAGS.items() for line in beside(f"  {flag}", said, COLUMN, width)]
    lines += ["", "groups, with the choice that is made where none is given:"]
    for group in (*GROUPS, "experiment"):
        lines += beside(f"  {group}={made[group] or ''}", " | ".join(choices(group, [])), COLUMN, width)
    lines += beside("  hydra/launcher=local", "slurm | ray, for workers elsewhere; with --help its keys", COLUMN, width)
    lines += beside("  GROUP.FIELD=VALUE", "a field; `ltx run GROUP=NAME --help` lists them", COLUMN, width)
    lines += ["", "keys, with their values where none is given:"]
    for name, value, comment, above in commented((CONF / "run.yaml").read_text()):
        if name.partition(".")[0] in ("defaults", "hydra"):
            continue
        lines += textwrap.wrap(above, width)
        if value.startswith("{"):
            name, value, comment = f"{name}.FIELD", "VALUE", "; ".join([value[1:-1].replace(": ", "="), comment])
        lines += beside(f"  {name}={value}", comment.strip("; "), COLUMN, width)
    return [*lines, "", *(line for part in NOTES.split("\n\n") for line in [*textwrap.wrap(part, width), ""])][:-1]
