"""Sets of degradations (degradations.py) that a config names in one word."""

SETS: dict[str, list[str]] = {
    "light": ["jpeg70", "half_size"],
    "paper": [
        *(f"jpeg{quality}" for quality in (90, 80, 70, 60)),
        *(f"blur_k{side}" for side in (3, 5, 7, 11)),
        *(f"noise{sigma}" for sigma in (0.51, 1.02, 1.53, 2.55)),
        *(f"resize{factor}" for factor in (0.9, 0.8, 0.7, 0.5)),
        *("facebook", "weibo", "wechat", "whatsapp"),
        *("JRBN", "RBNJ", "BNJR", "NJRB"),
    ],
}
"""light: what nearly every image meets on its way, the default. paper: what the paper measures, four curves, four
social networks and four chains. docs/robustness.md has the parameters."""


def expanded(names: list[str]) -> list[str]:
    """The names with each set replaced by what is in it, each name once."""
    return list(dict.fromkeys(name for each in names for name in SETS.get(each, [each])))
