"""Print how long the project's Python files are, and fail if one is past the budget.

    python tools/file_sizes.py [--budget LINES] [--largest COUNT] [ROOT]

A file past 500 lines usually holds more than one thing.
"""

import argparse
from collections import defaultdict
from pathlib import Path

FOLDERS = ("qcompiler", "passes", "runtime", "tools", "tests")


def line_counts(root: Path) -> dict[Path, int]:
    """Lines of every Python file of the project, by path relative to `root`; links are not followed."""
    sources = [source for folder in FOLDERS for source in (root / folder).rglob("*.py")]
    return {source.relative_to(root): len(source.read_text("utf-8").splitlines()) for source in sorted(sources)}


def table(counts: dict[Path, int], largest: int) -> str:
    """Files, lines and longest file of each folder, then the longest files of all."""
    folders: dict[Path, list[int]] = defaultdict(list)
    for source, lines in counts.items():
        folders[source.parent].append(lines)
    rows = ["files   lines  longest  folder"]
    rows += [f"{len(n):5}  {sum(n):6}  {max(n):7}  {folder}/" for folder, n in sorted(folders.items())]
    rows += [f"{len(counts):5}  {sum(counts.values()):6}  {max(counts.values(), default=0):7}  in all", ""]
    longest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:largest]
    return "\n".join([*rows, "lines  file", *(f"{lines:5}  {source}" for source, lines in longest)])


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if a file is past the budget, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--budget", type=int, default=500, help="most lines that a file may have (500)")
    parser.add_argument("--largest", type=int, default=12, help="how many of the longest files to list (12)")
    options = parser.parse_args(arguments)
    counts = line_counts(options.root)
    print(table(counts, options.largest))
    past = [f"{source} ({lines})" for source, lines in counts.items() if lines > options.budget]
    if past:
        print(f"past the budget of {options.budget} lines: {', '.join(past)}")
    return 1 if past else 0


if __name__ == "__main__":
    raise SystemExit(main())
