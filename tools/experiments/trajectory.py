"""The trajectory picture of the README and of docs/report.md: one question of a run as the report colors it, as SVG.

    python -m tools.experiments.trajectory runs/collapse     # a run of docs/collapse_tutorial.md

Drawn is the question with the right trajectory that lost most likelihood in an iteration's updates (where none lost,
the one that moved most), and a wrong trajectory of it. Each token has the color that `llds.report` gives it.
"""

import argparse
from html import escape
from pathlib import Path

from llds.report.run import Run, read_run, read_trajectories
from llds.report.style import GAINED, LOST
from llds.report.trajectories import LEVELS, ReportedQuestion, ReportedTrajectory, Token, reported_questions

PICTURE = Path(__file__).parents[2] / "docs" / "experiments" / "trajectory.svg"
SIZE, WIDTH, LINE, LEFT = 15, 9.0, 27, 24
"""Pixels: of the letters, of one of them (all are equally wide), of a line, and of the margin."""
COLUMNS = 92
INK, SOFT = "#1b1f24", "#59636e"


def most_telling(run: Run, iteration: int | None) -> tuple[str, ReportedQuestion]:
    """The iteration and the question with a right trajectory that lost most likelihood; else that moved most."""
    found = []
    for path in run.trajectories:
        number = int(path.name.split("-")[1].split(".")[0])
        if iteration in (None, number):
            questions = reported_questions(read_trajectories(path))
            found += [
                (f"iteration {number}", one) for one in questions if len({t.is_correct for t in _measured(one)}) == 2
            ]
    if not found:
        raise SystemExit(f"Expected a question with right and wrong trajectories in {run.path}, got none.")
    return min(found, key=lambda one: _rank(one[1]))


def picture(name: str, question: ReportedQuestion) -> str:
    """The SVG of the question's right trajectory that gained least and of the wrong one that lost least."""
    right = min((one for one in _measured(question) if one.is_correct), key=lambda one: one.change or 0.0)
    wrong = max((one for one in _measured(question) if not one.is_correct), key=lambda one: one.change or 0.0)
    parts = [_text(LEFT, 30, f"{question.text} (gold: {', '.join(question.golds)}; {name})", INK, bold=True)]
    at = 58
    for one in (right, wrong):
        lines, at = _trajectory(one, at)
        parts += lines
    parts += _legend(at + 8)
    height, width = at + 8 + LINE, int(2 * LEFT + COLUMNS * WIDTH)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{SIZE}">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _measured(question: ReportedQuestion) -> list[ReportedTrajectory]:
    return [one for one in question.trajectories if one.change is not None]


def _rank(question: ReportedQuestion) -> tuple[float, float]:
    """Smaller is more telling: what a right trajectory lost, then how much anything moved."""
    changes = [one.change or 0.0 for one in _measured(question)]
    lost = min(one.change or 0.0 for one in _measured(question) if one.is_correct)
    return min(lost, 0.0), -max(map(abs, changes))


def _trajectory(one: ReportedTrajectory, at: int) -> tuple[list[str], int]:
    """Its elements from a height on, and the height below it."""
    word = "right" if one.is_correct else "wrong"
    color = GAINED if one.is_correct else LOST
    said = f"{word}, advantage {one.advantage or 0:+.2f}; log-likelihood changed by {one.change or 0:+.2f} nats"
    parts, top = [_text(LEFT + 14, at, said, color, bold=True)], at - SIZE
    for turn in one.turns:
        at += LINE
        lines, at = _tokens(turn.tokens, at)
        parts += lines
        if turn.documents:
            at += LINE - 4
            parts.append(_text(LEFT + 14, at, f"{len(turn.documents)} passages came back", SOFT))
    bar = f'<rect x="{LEFT}" y="{top}" width="5" height="{at + 8 - top}" fill="{color}"/>'
    return [bar, *parts], at + LINE + 12


def _tokens(tokens: list[Token], at: int) -> tuple[list[str], int]:
    parts, column = [], 0
    for token in tokens:
        text = token.text.replace("\n", " ")
        if column + len(text) > COLUMNS - 4:
            column, at = 0, at + LINE
        x = LEFT + 14 + column * WIDTH
        level, wide = token.level, len(text) * WIDTH
        if level:
            fill, deep = (GAINED if level > 0 else LOST), 0.75 * abs(level) / LEVELS
            parts.append(
                f'<rect x="{x:g}" y="{at - 16}" width="{wide:g}" height="21" fill="{fill}" fill-opacity="{deep:.2f}"/>'
            )
        if token.is_displaced:
            parts.append(f'<path d="M{x:g} {at + 5}h{wide:g}" stroke="{LOST}" stroke-width="2"/>')
        parts.append(_text(x, at, text, INK))
        column += len(text)
    return parts, at


def _legend(at: int) -> list[str]:
    parts, x = [], float(LEFT)
    for color, said in ((LOST, "lost likelihood in the update"), (GAINED, "gained")):
        parts.append(f'<rect x="{x:g}" y="{at - 13}" width="16" height="16" fill="{color}" fill-opacity="0.6"/>')
        parts.append(_text(x + 22, at, said, SOFT))
        x += 22 + (len(said) + 3) * WIDTH
    parts.append(f'<path d="M{x:g} {at + 3}h16" stroke="{LOST}" stroke-width="2"/>')
    parts.append(_text(x + 22, at, "lost against a positive advantage", SOFT))
    return parts


def _text(x: float, y: int, text: str, color: str, bold: bool = False) -> str:
    """A line of text; it is as wide here as with any other font."""
    weight = ' font-weight="bold"' if bold else ""
    kept = escape(text)
    return (
        f'<text x="{x:g}" y="{y}" fill="{color}"{weight} xml:space="preserve" textLength="{len(text) * WIDTH:g}" '
        f'lengthAdjust="spacingAndGlyphs">{kept}</text>'
    )


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with trajectories")
    parser.add_argument("--iteration", type=int, help="of the trajectories; default: all are looked through")
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    options.output.write_text(picture(*most_telling(read_run(options.run), options.iteration)), encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
