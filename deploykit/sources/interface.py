"""The face of a source: a name from the command line in, a loaded model out."""

from __future__ import annotations

from typing import ClassVar, Protocol

from deploykit.model import LoadedModel, SourceSpec


class SourcePlugin(Protocol):
    """One kind of source.

    Attributes:
        runs_user_code: whether loading imports code that the user named (only ever from the command line).
        example: one SOURCE text, for help and doctor.
    """

    runs_user_code: ClassVar[bool]
    example: ClassVar[str]

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""

    # A source whose published weights expect certain preprocessing tells it: `expects(spec) -> str`. Most do not.

    def load(self, spec: SourceSpec) -> LoadedModel:
        """Build the module in eval mode, load the checkpoint if one is named, and describe its inputs.

        Raises:
            UsageError: the target does not exist, or nothing says what the inputs are.
            RefusedError: the checkpoint is malformed, does not fit, or carries code.
            WorkError: the user's code raised.
        """
