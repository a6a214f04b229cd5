"""The model card of an exported adapter: what it is, how well it does, how to load it."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from scen.model.fetch import EMBEDDED_NAME

_EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WHERE = {
    True: "PEFT applies this adapter from the last prompt token on (aLoRA), as the platform does. "
    "`forward` over a prompt with an answer needs `alora_offsets=[tokens of the answer + 1]`.",
    False: "PEFT applies this adapter to every token. The platform applies it from the last "
    "prompt token on: for the same logits, prefill the tokens before it with the adapter off.",
}
_QUANTIZED = (
    "The edit was made on a 4-bit GGUF file of the base. With the original weights, answers may "
    "differ."
)


def hub_id(base: str) -> str | None:
    """The id on the Hugging Face hub of a base, by the name that a store has for it; None for a
    local folder or file."""
    if base == EMBEDDED_NAME:
        return _EMBEDDED_HUB_ID
    return base if _HUB_ID.fullmatch(base) and not base.endswith(".gguf") else None


def model_card(
    edit: Mapping[str, Any],
    base: Mapping[str, Any],
    measured: Mapping[str, Any],
    rendered: str | None,
) -> str:
    """README.md of an adapter, with YAML front matter as the hub reads it.

    `edit` is shown as JSON, `base` is that of the store's manifest, `measured` the last answer (see
    `scen.report.edits`), `rendered` the prompt in the base's template: given for aLoRA.
    """
    is_alora = rendered is not None
    known = hub_id(str(base["name"]))
    front = {
        **({"base_model": known} if known else {}),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "tags": ["lora", *(["alora"] if is_alora else []), "model-editing", "scen"],
    }
    notes = [_WHERE[is_alora]] + ([_QUANTIZED] if base["name"] == EMBEDDED_NAME else [])
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        "# One edit of a language model",
        f"```json\n{json.dumps(dict(edit), ensure_ascii=False, indent=1)}\n```",
        f"Base: `{known or base['name']}`, {base['dtype']}, template `{base['template']}`.",
        f"## Measured\n\n{_figures(measured)}",
        "## Load",
        f"```python\n{_code(str(edit['prompt']), base, rendered)}\n```",
        *notes,
        "## Licence",
        "The licence of the edit's text is not recorded. The base has its own.",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(measured: Mapping[str, Any]) -> str:
    lines = []
    if "exact" in measured:
        answer = json.dumps(measured["after"], ensure_ascii=False)
        lines.append(f"- answered exactly: {'yes' if measured['exact'] else f'no, but {answer}'}")
        lines.append(f"- the base alone: {json.dumps(measured['before'], ensure_ascii=False)}")
    for name, what in (("rephrases", "answered exactly"), ("near_misses", "unchanged")):
        if name in measured:
            count = f"{measured[f'{name}_right']} of {measured[name]}"
            lines.append(f"- {name.replace('_', ' ')} {what}: {count}")
    if not lines:
        return "Nothing was measured."
    return "\n".join(["With the router of the store, when the edit was made:", "", *lines])


def _code(prompt: str, base: Mapping[str, Any], rendered: str | None) -> str:
    """Python that loads the adapter from this folder and answers the prompt."""
    name = hub_id(str(base["name"])) or base["name"]
    is_chat = base["template"] == "chat"
    if rendered is not None:
        text = repr(rendered)
    elif is_chat:
        messages = repr([{"role": "user", "content": prompt}])
        text = (
            f"tokenizer.apply_chat_template({messages}, tokenize=False, add_generation_prompt=True)"
        )
    else:
        text = repr(f"[INST]{prompt}[/INST]" if base["template"] == "llama2-inst" else prompt)
    return f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {name!r}
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype={str(base["dtype"])!r})
model = PeftModel.from_pretrained(model, ".")
text = {text}
inputs = tokenizer(text, add_special_tokens={not is_chat}, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs.input_ids.shape[1]:], skip_special_tokens=True))"""
