"""The model card of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import kgen
from kgen import RunError
from kgen_plugin_diffusers.exchange.model import Model


def model_card(run: Path, models: Mapping[str, Model], reasons: Mapping[str, str]) -> str:
    """The Markdown text of a model card: what the folder holds, how to open it, and the configuration of the run.

    Args:
        run: The run, or the saved pipeline, which has no configuration.
        models: The models by the name of the part.
        reasons: Why the other parts were not written.
    """
    name = run.resolve().name
    lines = ["---", "library_name: diffusers", "---", "", f"# {name}", ""]
    lines += [f"Parts of the kgen run `{name}`, as models of diffusers:", ""]
    lines += [f"- `{model.part}`: the {part}, as `{model.cls}`" for part, model in models.items()]
    lines += ["", "```python", "import diffusers", ""]
    for model in models.values():
        lines.append(f'{model.part} = diffusers.{model.cls}.from_pretrained("FOLDER", subfolder="{model.part}")')
    lines += ["```", ""]
    if reasons:
        lines += ["These parts are not in the folder:", ""]
        lines += [*(f"- the {part}: {reason}" for part, reason in reasons.items()), ""]
    lines += ["## License", "", "Not stated. State the license of the weights here, and as `license:` at the top.", ""]
    try:
        config = kgen.open_config(run).to_yaml()
    except RunError:  # a saved pipeline
        return "\n".join(lines)
    return "\n".join([*lines, "## Configuration of the run", "", "```yaml", config.rstrip(), "```", ""])
