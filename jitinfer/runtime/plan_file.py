"""A plan as JSON and named bytes, and as one file that proves itself."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_type_hints

from jitinfer.cache import Key
from jitinfer.cache.container import DamagedError, decode, encode
from jitinfer.errors import PlanError
from jitinfer.runtime.document import from_document, to_document
from jitinfer.runtime.plan import Kernel, Plan
from jitinfer.runtime.soundness import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jitinfer.cache import JSON

FORMAT = 2
"""Raised with every change of the plan's data: a plan of another format is refused, never guessed at."""

FORMAT_WITH_LANES = 3
"""Of a plan that has `slots`; others do not mention them, and stay what they were."""


def to_parts(plan: Plan) -> tuple[dict[str, JSON], dict[str, bytes]]:
    """What a cache entry or a file holds of a plan: metadata, and the bytes of kernels and constants."""
    blobs = {f"kernel:{kernel.digest}": kernel.cubin for kernel in plan.kernels}
    blobs.update({f"constant:{name}": data for name, data in plan.constants})
    document: dict[str, JSON] = {"format": _format(plan)}
    for spec in fields(Plan):
        if spec.name not in ("kernels", "constants") and (spec.name != "slots" or plan.slots):
            document[spec.name] = to_document(getattr(plan, spec.name))
    document["kernels"] = [document_of_kernel(kernel) for kernel in plan.kernels]
    document["constants"] = [name for name, _ in plan.constants]
    return document, blobs


def from_parts(document: Mapping[str, JSON], blobs: Mapping[str, bytes]) -> Plan:
    """The plan, checked. Raises PlanError."""
    names = {spec.name for spec in fields(Plan)}
    found = document.get("format")
    if found not in (FORMAT, FORMAT_WITH_LANES):
        known = f"{FORMAT} and {FORMAT_WITH_LANES}"
        raise PlanError(f"a plan of format {found!r}; this version of jitinfer reads {known}")
    if found == FORMAT:
        names.remove("slots")
    if set(document) != {"format", *names}:
        raise PlanError("it has not exactly the fields of a plan")
    kernels = _list(document["kernels"], "kernels")
    hints = get_type_hints(Plan)
    values: dict[str, Any] = {
        name: from_document(hints[name], document[name], name) for name in names - {"kernels", "constants"}
    }
    values["kernels"] = tuple(_kernel(each, blobs, f"kernels[{i}]") for i, each in enumerate(kernels))
    values["constants"] = tuple(
        (str(name), _blob(blobs, f"constant:{name}")) for name in _list(document["constants"], "constants")
    )
    plan = Plan(**values)
    if _format(plan) != found:
        raise PlanError(f"a plan of format {found}, with {len(plan.slots)} slots")
    check(plan)
    return plan


def save(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Writes one file, whole or not at all. Raises PlanError for a plan that does not fit together, or OSError."""
    check(plan)
    document, blobs = to_parts(plan)
    data = encode(_key(_format(plan)), blobs, document, created=0.0)
    with replacing(path) as stream:
        stream.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of the file at the end, whole or not at all. Raises OSError."""
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> Plan:
    """Reads a file that `save` wrote; executes nothing of it. Raises PlanError for any other content, or OSError."""
    try:
        header, entry = decode(Path(path).read_bytes())
    except DamagedError as damage:
        raise PlanError(f"{os.fspath(path)} is damaged, or no plan: {damage}; save the plan again") from None
    try:
        if header.key not in (_key(FORMAT), _key(FORMAT_WITH_LANES)):
            raise PlanError(f"it holds a {header.key.kind}")
        return from_parts(entry.metadata, entry.blobs)
    except PlanError as error:
        raise PlanError(f"{os.fspath(path)} is no plan that can be run: {error}") from None


def _format(plan: Plan) -> int:
    return FORMAT_WITH_LANES if plan.slots else FORMAT


def _key(number: int) -> Key:
    return Key("plan", {"format": number})


def document_of_kernel(kernel: Kernel) -> dict[str, JSON]:
    """All of a kernel but its code, in whose place stands the digest."""
    document = to_document(replace(kernel, cubin=None))  # type: ignore[arg-type]
    assert isinstance(document, dict)
    document["cubin"] = kernel.digest
    return document


def _kernel(document: JSON, blobs: Mapping[str, bytes], path: str) -> Kernel:
    digest = document.get("cubin") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(digest, str):
        raise PlanError(f"{path} is no kernel")
    return kernel_from_document(document, _blob(blobs, f"kernel:{digest}"), path)


def kernel_from_document(document: Mapping[str, JSON], cubin: bytes, path: str) -> Kernel:
    """The kernel that a document describes. Raises PlanError unless it has the digest that the document says."""
    names = [spec.name for spec in fields(Kernel)]
    if document.get("is") != "Kernel" or set(document) != {"is", *names}:
        raise PlanError(f"{path} has not exactly the fields of a Kernel")
    hints = get_type_hints(Kernel)
    values = {name: from_document(hints[name], document[name], f"{path}.{name}") for name in names if name != "cubin"}
    kernel = Kernel(cubin=cubin, **values)
    if kernel.digest != document["cubin"]:
        raise PlanError(f"{path} is not the kernel {document['cubin']!r}")
    return kernel


def _blob(blobs: Mapping[str, bytes], name: str) -> bytes:
    try:
        return blobs[name]
    except KeyError:
        raise PlanError(f"it lacks the bytes of {name}") from None


def _list(value: JSON, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise PlanError(f"{path} is no list")
    return value
