"""The command group: a command's file is imported when that command is asked for."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "init": "write a recipe for a source: deploykit.toml",
    "run": "train or load → export → verify → bench → recommend, one command",
    "train": "train the seed model",
    "export": "write the variants, the reference and the manifest",
    "verify": "the parity gate",
    "bench": "measure latency, throughput, memory and load time",
    "report": "render what was measured",
    "serve": "answer requests over HTTP, for trying and testing",
    "handoff": "the folder that a serving stack takes as it is",
    "inspect": "what is in a file or bundle",
    "sweep": "many models × settings from a matrix, here or on a Ray cluster: one table",
    "doctor": "what can be made and run here, and why not the rest",
}
"""Command to its line in the help; the file is `cli/<command>_command.py`."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's file, if there is such a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"deploykit.cli.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value:
        from deploykit import __version__

        click.echo(f"deploykit {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def group() -> None:
    """Export a PyTorch model, prove that every variant computes what eager computes, and measure what each costs.

    Exit codes: 0 done, every gate passed; 1 a gate said no; 2 usage; 3 inconclusive; 4 could not be done; 5 refused;
    6 storage; 70 a bug in deploykit.
    """
