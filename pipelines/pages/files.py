"""Files of an output as parts of its page: its settings, and pictures."""

from collections.abc import Sequence

import yaml

from pipelines.dataset import html
from pipelines.runtime import storage, uris


def config(output: str) -> dict[str, dict[str, object]]:
    """The sections of the resolved config of an output; none where it is not there or damaged."""
    data = storage.read_if_there(uris.join(output, "config.yaml"))
    try:
        document = yaml.safe_load(data or b"")
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    sections = document.items() if isinstance(document, dict) else ()
    return {name: section for name, section in sections if isinstance(section, dict)}


def settings(output: str) -> str:
    """The resolved config of an output, folded; empty where there is none."""
    return html.preformatted("Settings", storage.read_if_there(uris.join(output, "config.yaml")))


def pictures(output: str, names: Sequence[str]) -> str:
    """Pictures of an output, below each other with their names; those that are not there are left out."""
    shown = []
    for name in names:
        if data := storage.read_if_there(uris.join(output, name)):
            source = html.embedded("png" if name.endswith(".png") else "jpeg", data)
            label = html.escape(name)
            shown.append(f'<h3>{label}</h3><div class=wide><img class=sheet alt="{label}" src="{source}"></div>')
    return "".join(shown)
