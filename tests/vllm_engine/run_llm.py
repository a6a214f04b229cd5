"""Runs prompts through vLLM's offline LLM, with the plugin or plain, in a process of its own.

`python run_llm.py JOB.json`, where a job has `out`, `plain`, `without_hash`, `args` of LLM,
`model`, `settings` and `experts` (a safetensors file) of the plugin, and `stages`: prompts with
their wishes, `max_tokens`, and whether the prefix cache is emptied before.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import safetensors.torch


class _Rpc:
    """The one method of AsyncLLM that a link uses, on an offline LLM."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> Any:
        return self._llm.collective_rpc(method, args=args)


async def _connect(llm: Any, job: dict[str, Any]) -> Any:
    """A link with all experts in their slots."""
    from scen.model.keys import KeyPlace
    from scen_vllm.link import WorkersLink

    places = tuple(KeyPlace(*place) for place in job["settings"]["places"])
    link = WorkersLink(places)
    await link.connect(_Rpc(llm))
    receiving = asyncio.ensure_future(link.receive())
    experts = safetensors.torch.load_file(job["experts"])
    for row in range(len(experts["down"])):
        expert = {name: tensor[row] for name, tensor in experts.items()}
        await asyncio.wait_for(link.put(row, f"expert:{row}", expert), 60)
    receiving.cancel()
    return link


async def _read(link: Any, names: list[str], futures: list[Any]) -> dict[str, Any]:
    receiving = asyncio.ensure_future(link.receive())
    keys = await asyncio.wait_for(asyncio.gather(*futures), 60)
    receiving.cancel()
    return {
        name: [row.tolist() for part in key for row in part]
        for name, key in zip(names, keys, strict=True)
    }


def _count_preemptions() -> list[int]:
    from vllm.v1.core.sched.scheduler import Scheduler

    counts = [0]
    preempt = Scheduler._preempt_request

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        counts[0] += 1
        return preempt(self, *args, **more)

    Scheduler._preempt_request = counted
    return counts


def main(job: dict[str, Any]) -> None:
    """Run all stages of a job and write what came out."""
    os.environ["VLLM_PLUGINS"] = "none" if job["plain"] else "scen"
    if job.get("without_hash"):
        import scen_vllm.prefix_cache

        scen_vllm.prefix_cache._with_expert = lambda hash_keys: hash_keys
        scen_vllm.prefix_cache._with_limit = lambda find_blocks: find_blocks
    from vllm import LLM, SamplingParams

    preempted = _count_preemptions()
    more: dict[str, Any] = {}
    if not job["plain"]:
        more["worker_extension_cls"] = "scen_vllm.worker.WorkerExtension"
        more["additional_config"] = {"scen": job["settings"]}
    llm = LLM(job["model"], disable_log_stats=True, skip_tokenizer_init=True, **job["args"], **more)
    loop = asyncio.new_event_loop()
    link: Any = None if job["plain"] else loop.run_until_complete(_connect(llm, job))
    out = []
    for stage in job["stages"]:
        if stage["reset"]:
            llm.reset_prefix_cache()
        wishes = [None] * len(stage["prompts"]) if job["plain"] else stage["wishes"]
        names = [wish["key"] for wish in wishes if wish and "key" in wish]

        async def expect(names: list[str] = names) -> list[Any]:
            return [link.expect(name) for name in names]

        futures = loop.run_until_complete(expect())
        params = [
            SamplingParams(
                temperature=0,
                max_tokens=stage["max_tokens"],
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
                extra_args={"scen": wish} if wish else None,
            )
            for wish in wishes
        ]
        before = preempted[0]
        prompts = [{"prompt_token_ids": ids} for ids in stage["prompts"]]
        answers = llm.generate(prompts, params, use_tqdm=False)
        rows = [
            {
                "tokens": list(answer.outputs[0].token_ids),
                "logprobs": [
                    next(iter(found.values())).logprob.hex() for found in answer.outputs[0].logprobs
                ],
                "cached": answer.num_cached_tokens,
            }
            for answer in answers
        ]
        keys = loop.run_until_complete(_read(link, names, futures)) if names else {}
        out.append({"rows": rows, "keys": keys, "preempted": preempted[0] - before})
    state = None if job["plain"] else llm.collective_rpc("scen_state")[0]
    Path(job["out"]).write_text(json.dumps({"stages": out, "state": state}))
    if link is not None:
        link.close()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
