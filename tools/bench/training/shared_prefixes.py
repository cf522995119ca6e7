"""Forward and backward of a group with its shared prefix computed once, against padded rows: ratio of times, equality.

    python tools/bench/training/shared_prefixes.py [--prompt 512] [--response 64] [--group 8] [--hidden 576] ...

Takes both in turns, in one process; prints the medians of CPU seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from llds.batches.prefix_tree import PrefixTree
from llds.modules.policy.tree_attention import TREE_ATTENTION, tree_hidden_states


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=max(1, arguments.hidden // 64 // 3),
        intermediate_size=3 * arguments.hidden,
        vocab_size=8000,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=TREE_ATTENTION).train()
    decoder = model.get_decoder()
    length = arguments.prompt + arguments.response
    ids = torch.randint(0, 8000, (arguments.group, length))
    ids[:, : arguments.prompt] = ids[0, : arguments.prompt]
    lengths = torch.full((arguments.group,), length)

    def padded() -> torch.Tensor:
        return decoder(input_ids=ids, use_cache=False).last_hidden_state

    def shared() -> torch.Tensor:
        tree = PrefixTree.build(ids, lengths)
        return tree_hidden_states(decoder, tree)[tree.nodes]

    def step(forward: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        started = time.process_time()
        forward()[:, arguments.prompt - 1 :].square().mean().backward()
        seconds = time.process_time() - started
        return seconds, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    times: dict[str, list[float]] = {"padded": [], "shared": []}
    for _ in range(arguments.repeats):
        for name, forward in (("padded", padded), ("shared", shared)):
            seconds, gradient = step(forward)
            times[name].append(seconds)
            if name == "padded":
                expected = gradient
    difference = float((gradient - expected).norm() / expected.norm())
    medians = {name: statistics.median(values) for name, values in times.items()}
    distinct = len(PrefixTree.build(ids, lengths))
    print(f"tokens: padded {ids.numel()}, distinct {distinct} ({ids.numel() / distinct:.2f}x)")
    for name, seconds in medians.items():
        spread = f"{min(times[name]):.3f} - {max(times[name]):.3f}"
        print(f"{name}: {seconds:.3f} CPU s ({spread} over {arguments.repeats})")
    ratio = medians["padded"] / medians["shared"]
    print(f"shared is {ratio:.2f}x faster; gradients differ by {difference:.1e} relative")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the shared prompt")
    parser.add_argument("--response", type=int, default=64, help="tokens of each response")
    parser.add_argument("--group", type=int, default=8, help="trajectories")
    parser.add_argument("--hidden", type=int, default=576, help="hidden units, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4, help="layers")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    parser.add_argument("--repeats", type=int, default=5, help="repeats")
    return parser.parse_args()


if __name__ == "__main__":
    main()
