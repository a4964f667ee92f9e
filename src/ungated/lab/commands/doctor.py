"""doctor: which path runs for which cell on this machine, and why not a faster one."""

from __future__ import annotations

from typing import Any

from ungated.lab.commands.options import AsJson, Debug
from ungated.lab.commands.output import say, say_json, say_table


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say which path runs for each cell in each situation, why not a faster one, and what could be done about it.

    Libraries that have not been compiled yet are compiled.
    """
    from ungated.lab import doctor as examination
    from ungated.lab.reports.tables import Table

    found = examination.examine()
    if as_json:
        say_json(found)
        return
    say(f"Fastest first: {', '.join(examination.order())}.")
    for device in dict.fromkeys(entry["device"] for entry in found["paths"]):
        entries = [entry for entry in found["paths"] if entry["device"] == device]
        cells = list(dict.fromkeys(entry["cell"] for entry in entries))
        situations = list(dict.fromkeys(entry["situation"] for entry in entries))
        paths = {(entry["cell"], entry["situation"]): entry["path"] for entry in entries}
        rows = [[cell, *(paths[cell, situation] for situation in situations)] for cell in cells]
        say()
        say_table(Table([device, *situations], rows, left=situations))
        say()
        for passed, reason, where in examination.passed_over(entries):
            say(f"not {', '.join(passed)}: {reason} ({_where(where, set(cells))})")
    say()
    for line in _facts(found):
        say(line)
    for sentence in found["advice"]:
        say(f"Advice: {sentence}")


def _where(where: list[tuple[str, str]], cells: set[str]) -> str:
    """In few words: "anywhere", "one step; inference of gru, rru"."""
    by_situation: dict[str, set[str]] = {}
    for cell, situation in where:
        by_situation.setdefault(situation, set()).add(cell)
    parts = [
        name if found == cells else f"{name} of {', '.join(sorted(found))}" for name, found in by_situation.items()
    ]
    return "; ".join(parts) or "anywhere"


def _facts(found: dict[str, Any]) -> list[str]:
    machine, engine, gpu = found["machine"], found["engine"], found["gpu"]
    state = "" if engine["cache_writable"] else ", not writable"
    devices = ", ".join(gpu["devices"]) or "none"
    kept = f"{engine['cache_files']} libraries, {engine['cache_bytes'] / 1e6:.1f} MB{state}"
    return [
        f"processor   {machine['device_name']}, {machine['threads']} of {machine['cores']} cores used, {engine['isa']}",
        f"compiler    {engine['compiler_version'] or engine['compiler'] or 'none'}",
        f"cache       {engine['cache']}: {kept}",
        f"versions    ungated {machine['ungated']}, torch {machine['torch']}, Python {machine['python']}",
        f"GPU         {devices}; CUDA {gpu['cuda'] or 'none'}, driver {gpu['driver'] or 'none'},"
        f" NVRTC {gpu['nvrtc'] or 'none'}, Triton {gpu['triton'] or 'none'}",
    ]
