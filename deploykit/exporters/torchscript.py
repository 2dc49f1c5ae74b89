"""TorchScript: the module traced and frozen. Deprecated upstream, and still what many serving stacks take."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from deploykit.model import LoadedModel


@dataclass(frozen=True)
class Exporter:
    """`torch.jit.trace`, then `freeze`. Traced and not scripted: scripted bytes depend on the hash seed."""

    core: ClassVar[bool] = True
    file_name: ClassVar[str] = "model.pt"
    runtime: ClassVar[str] = "torchscript"
    precision: ClassVar[str] = "fp32"
    runs_code: ClassVar[bool] = True
    tells_lines: ClassVar[bool] = False

    def unavailable(self) -> str | None:
        """Why this exporter cannot work here; None when it can."""
        return None if find_spec("torch") else "the package torch is not installed"

    def export(self, model: LoadedModel, target: Path) -> dict[str, str | int]:
        """Write the frozen trace to `target`; tells as `baked` where Python values became constants.

        Outputs are a tensor or a flat tuple, in pytree order.
        """
        import torch

        from deploykit.exporters._graph import Flat, example, untouched
        from deploykit.exporters._lines import baked

        buffer = io.BytesIO()
        with untouched(model.module), warnings.catch_warnings(record=True) as warned:
            # quiet has them ignored
            warnings.simplefilter("always")
            # what it computes, verify judges; the tracer's own check would compare it to itself
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                Flat(model.module), example(model), check_trace=False, strict=False
            )
            torch.jit.save(torch.jit.freeze(traced), buffer)
        target.write_bytes(_normalized(buffer))
        return baked(warned)


_MANGLED = re.compile(rb"___torch_mangle_\d+")
_WRITERS_OWN = {"version", "byteorder", ".data/serialization_id"}


def _normalized(buffer: io.BytesIO) -> bytes:
    """The archive without its `.debug_pkl` records, which hold the absolute paths of the model's code.

    Types are numbered anew: torch counts those of the whole process. Every record is stored as it is: torch
    compresses some, which no reader needs and a scan of the archive cannot see into.
    """
    import torch

    buffer.seek(0)
    reader = torch._C.PyTorchFileReader(buffer)  # noqa: SLF001 - the archive format has no public interface
    output = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(output)  # noqa: SLF001
    numbers: dict[bytes, bytes] = {}

    def renumber(data: bytes) -> bytes:
        return _MANGLED.sub(lambda m: numbers.setdefault(m[0], b"___torch_mangle_%d" % len(numbers)), data)

    for name in sorted(reader.get_all_records(), key=lambda record: (record != "data.pkl", record)):
        if name.endswith(".debug_pkl") or name in _WRITERS_OWN:
            continue
        data = reader.get_record(name)
        if name == "data.pkl" or name.startswith("code/"):
            data = renumber(data)
        writer.write_record(renumber(name.encode()).decode(), data, len(data))
    writer.write_end_of_file()
    return output.getvalue()
