import re
from importlib.resources import files


def test_text_stands_out_from_its_background():
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, on white and on black paper alike."""
    sheet = (files("pipeline.report") / "templates" / "style.css").read_text()
    for theme in sheet.split("@media screen and (prefers-color-scheme: dark)"):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", theme.split("* {")[0]))
        for name in ("ink", "muted", "good", "bad", "open", "series-3"):
            for background in ("paper", "wash"):
                assert contrast(colors[name], colors[background]) >= 4.5, (name, background)


def contrast(one: str, two: str) -> float:
    """The ratio of relative luminances, as WCAG 2.2 defines them."""

    def luminance(color):
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)
