"""`taigs plan`: what a run would do and take, without running it.

The command that is planned runs as usual, up to where its work would begin: there it finds `show` as the object of its
context, hands it the plan, and ends.
"""

import shutil
import sys
from typing import Annotated

import typer

PLANNED = ("tilt", "spa", "fit")


def plan(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND ...", help="A whole command line of tilt, spa or fit.")
    ] = None,
):
    """Show what a run would take: memory, disk and time.

    Reads and checks all inputs as the run does, measures how fast this machine is, and writes nothing.

    \b
    Example:
      taigs plan tilt ts.mrc --angles ts.tlt --xf ts.xf --thickness 300 -o ts
    """
    from taigs.errors import InputError

    if not command or command[0] not in PLANNED:
        found = f'"{command[0]}" cannot be planned' if command else "no command"
        raise InputError(f"taigs plan: {found}; expected a command line of {', '.join(PLANNED)}")
    root = context.find_root()
    root.command.main(command, prog_name=root.info_name, standalone_mode=False, obj=show)


def show(plan, output, needed, what, remedy):
    """Print a Plan with the memory needed (bytes) and what there is of everything; refuse it as the run would.

    Raises
    ------
    ResourceError
        Memory or disk do not suffice.
    """
    from taigs.errors import ResourceError
    from taigs.io.files import existing_folder
    from taigs.memory import check_run, in_words, memory_for_run
    from taigs.plan import measure_pace, time_in_words
    from taigs.run_record import size_in_words

    there = memory_for_run()
    free = shutil.disk_usage(existing_folder(output)).free
    left, peak, room = (size_in_words(n) for n in (plan.left, plan.peak, free))
    rows = [
        *plan.work,
        ("memory", f"about {in_words(needed)}; {'unknown' if there is None else in_words(there)} available"),
        ("disk", f"about {left} in the end, at most {peak} before; {room} free"),
        ("time", time_in_words(plan.seconds(measure_pace())) + (plan.remark and f"; {plan.remark}")),
    ]
    width = max(len(label) for label, _ in rows) + 2
    for label, value in rows:
        print(f"{label:<{width}}{value}")
    sys.stdout.flush()
    check_run(needed, what, remedy)
    if plan.left > free:
        raise ResourceError(f"{what} leaves about {left} on disk, {room} are free; try another place for -o")
    if plan.peak > free:
        print(f"warning: {what} has no room for checkpoints of up to {peak}: {room} are free", file=sys.stderr)
