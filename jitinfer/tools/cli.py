"""The command `jitinfer`: the cache's tools, the doctor, and the profiler.

Exit codes: 0 all well, 1 something was found that is not well, 2 the request cannot be carried out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from jitinfer.cache import Cache, cache_location
from jitinfer.cache.folder import folder_problem
from jitinfer.errors import CacheError, JitinferError
from jitinfer.tools import doctor, profile_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Raises SystemExit(2) for a command line that argparse refuses."""
    arguments = _parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except (JitinferError, OSError) as error:
        sys.stderr.write(f"jitinfer: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jitinfer", description="Fast and correct inference of Paddle models.")
    rooms = parser.add_subparsers(required=True, metavar="COMMAND")

    examine = rooms.add_parser("doctor", help="check what this machine has, and say how to get what it lacks")
    examine.add_argument("--json", action="store_true", help="machine-readable output")
    examine.set_defaults(command=_doctor)

    profiler = rooms.add_parser("profile", help="time each kernel of a saved program, with the model's layers")
    profile_command.add_to(profiler)

    cache = rooms.add_parser("cache", help="look into the cache folder")
    commands = cache.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.add_argument("--dir", type=Path, help="the cache folder (default: the one that models use)")
        added.set_defaults(command=command)
        return added

    listing = add("ls", _list, "list the entries, the most recently used first")
    show = add("show", _show, "show what an entry was made from and what it holds")
    verify = add("verify", _verify, "check every entry and set the damaged aside; exit code 1 if there were any")
    prune = add("prune", _prune, "remove the least recently used entries")
    clear = add("clear", _clear, "remove all entries")
    explain = add("explain", _explain, "say what an entry does not share with the nearest other one")
    for command in (listing, show, verify):
        command.add_argument("--json", action="store_true", help="machine-readable output")
    for command in (show, explain):
        command.add_argument("digest", metavar="DIGEST", help="the digest of an entry, or its beginning")
    prune.add_argument("--size", type=_gigabytes, metavar="GB", help="how much may stay (default: the cache's limit)")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _gigabytes(text: str) -> int:
    size = float(text)
    if not 0 <= size < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a size in gigabytes")
    return int(size * 1e9)


def _cache(arguments: argparse.Namespace) -> Cache | None:
    """The cache that is asked for; None where its folder does not exist, since looking should not create one."""
    folder: Path = arguments.dir or cache_location()
    if not (folder / "cache.db").exists() and (folder / "jitinfer").is_dir():
        folder = folder / "jitinfer"  # what was given to models as save_model_dir
    problem = folder_problem(folder)
    if problem is not None:
        raise CacheError(problem)
    return Cache(folder) if folder.exists() else None


def _usable(arguments: argparse.Namespace) -> Cache:
    cache = _cache(arguments)
    if cache is None:
        raise CacheError(f"there is no cache at {arguments.dir or cache_location()}")
    return cache


def _finish(cache: Cache, code: int = 0) -> int:
    """The exit code, unless the database failed meanwhile: then what was printed is not the whole truth."""
    cache.close()
    if cache.problem is not None:
        raise CacheError(cache.problem)
    return code


def _doctor(arguments: argparse.Namespace) -> int:
    checks = doctor.examine()
    if arguments.json:
        _print_json([dataclasses.asdict(check) for check in checks])
    else:
        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        table = Table("check", "state", "found", "to mend it", box=None)
        for check in checks:
            table.add_row(check.name, f"[{colours[check.state]}]{check.state}[/]", check.found, check.mend)
        Console(markup=True).print(table)
    return 0 if doctor.is_ready(checks) else 1


def _list(arguments: argparse.Namespace) -> int:
    cache = _cache(arguments)
    entries = [] if cache is None else list(cache.keys())
    if arguments.json:
        _print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        table = Table("digest", "kind", "size", "created", "last used", box=None)
        for entry in entries:
            row = (entry.digest[:12], entry.kind, decimal(entry.size), _moment(entry.created), _moment(entry.last_used))
            table.add_row(*row)
        if entries:
            Console(markup=False).print(table)
        total = decimal(sum(entry.size for entry in entries))
        sys.stdout.write(f"{len(entries)} entries, {total}, in {arguments.dir or cache_location()}\n")
    return 0 if cache is None else _finish(cache)


def _show(arguments: argparse.Namespace) -> int:
    cache = _usable(arguments)
    summary = cache.find(arguments.digest)
    content = cache.read(summary.digest)
    if content is None:
        raise CacheError(f"the entry {summary.digest} is damaged; it has been set aside")
    header, entry = content
    if arguments.json:
        _print_json(
            {
                **dataclasses.asdict(summary),
                "document": entry.key_document,
                "metadata": entry.metadata,
                "blobs": header.sizes,
            }
        )
        return _finish(cache)
    lines = [f"{summary.kind} {summary.digest}"]
    lines.append(f"created {_moment(summary.created)}, last used {_moment(summary.last_used)}, {decimal(summary.size)}")
    lines += ["", "made from", json.dumps(entry.key_document, indent=2)]
    lines += ["", "metadata", json.dumps(entry.metadata, indent=2), "", "blobs"]
    lines += [f"  {name}: {decimal(size)}" for name, size in header.sizes.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return _finish(cache)


def _verify(arguments: argparse.Namespace) -> int:
    cache = _usable(arguments)
    count = len(list(cache.keys()))
    damages = cache.verify()
    if arguments.json:
        _print_json([dataclasses.asdict(damage) for damage in damages])
    else:
        for damage in damages:
            sys.stdout.write(f"{damage.kind} {damage.digest[:12]}: {damage.reason}\n")
        sys.stdout.write(f"{count} entries, {len(damages)} damaged{' and set aside' if damages else ''}\n")
    return _finish(cache, 1 if damages else 0)


def _prune(arguments: argparse.Namespace) -> int:
    cache = _usable(arguments)
    sys.stdout.write(f"{cache.prune(arguments.size)} entries removed\n")
    return _finish(cache)


def _clear(arguments: argparse.Namespace) -> int:
    cache = _usable(arguments)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise CacheError("add --yes to remove everything without being asked")
        if input(f"Remove all entries of {cache.path}? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    # No _finish: a database that could not be opened, on a full disk say, is gone now.
    sys.stdout.write(f"{cache.clear()} entries removed\n")
    cache.close()
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    cache = _usable(arguments)
    sys.stdout.write(f"{cache.explain(arguments.digest)}\n")
    return _finish(cache)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
