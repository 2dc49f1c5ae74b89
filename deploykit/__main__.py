"""`python -m deploykit` and the `deploykit` command: run it, turn every ending into an exit code."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from deploykit.errors import DeploykitError, InternalError, UsageError, from_os_error


def main() -> NoReturn:
    """Run the command line and exit with a code of the contract.

    Ctrl-C and SIGTERM unwind first (children are killed, staging is removed), then end the process by that signal, so
    that the shell sees what happened.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background shell has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        from deploykit.cli import app

        code = app.group.main(args=arguments, prog_name="deploykit", standalone_mode=False)
    except DeploykitError as error:
        return _stop() if _stopped else _tell(error, arguments)
    except click.exceptions.NoArgsIsHelpError:
        return _tell(UsageError("deploykit", "no command is named", "deploykit --help"), arguments)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "deploykit"
        return _tell(UsageError(where, error.format_message().rstrip("."), f"{where} --help"), arguments)
    except click.ClickException as error:
        return _tell(UsageError("deploykit", error.format_message(), "deploykit --help"), arguments)
    except (KeyboardInterrupt, click.Abort):
        return _stop()
    except (BrokenPipeError, SystemExit):  # the reader went away, which click answers with exit 1: a gate's "no"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _die_of(signal.SIGPIPE)
    except OSError as error:
        return _stop() if _stopped else _tell(from_os_error(error, error.filename or "deploykit"), arguments)
    except Exception as error:  # noqa: BLE001 - the last edge: a bug, said as such
        if _stopped:  # whatever broke while everything was being taken down
            return _stop()
        wrong = InternalError("deploykit", f"{type(error).__name__}: {error}", "report this with the output of --debug")
        wrong.__cause__ = error
        return _tell(wrong, arguments)
    return code if isinstance(code, int) else 0


def _stop() -> int:
    print("error[INTERRUPTED]: deploykit: stopped; hint: nothing half-written was left behind", file=sys.stderr)
    return _die_of(_received)


def _tell(error: DeploykitError, arguments: list[str]) -> int:
    print(error, file=sys.stderr)
    if _wants_json(arguments):
        fields = {"code": error.code, "subject": error.subject, "message": error.message, "hint": error.hint}
        print(json.dumps({"schema": 1, "exit_code": error.exit_code, "error": fields}, indent=2))
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
        print(error.detail, file=sys.stderr)
    return error.exit_code


def _wants_json(arguments: list[str]) -> bool:
    """Whether stdout is promised to be one JSON document, whatever happens."""
    return "--json=-" in arguments or ("--json", "-") in itertools.pairwise(arguments)


_received = signal.SIGINT
_stopped = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _received, _stopped
    del frame
    _received, _stopped = signal.Signals(number), True
    raise KeyboardInterrupt


def _die_of(number: signal.Signals) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 4


if __name__ == "__main__":
    main()
