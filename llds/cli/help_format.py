"""How descriptions and examples are laid out: paragraphs as wide as the terminal, indented lines as they are."""

import argparse


class ParagraphFormatter(argparse.HelpFormatter):
    """Fills paragraphs; a line that is empty, begins with a blank or ends with a colon stays a line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        paragraph: list[str] = []
        for line in [*text.splitlines(), ""]:
            stays = not line or line[0] == " " or line[-1] == ":"
            if stays and paragraph:
                lines.append(super()._fill_text(" ".join(paragraph), width, indent))
                paragraph = []
            (lines if stays else paragraph).append(line)
        return "\n".join(lines[:-1])
