"""The stages of `make gpu` in their order. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """One measurement.

    Attributes:
        name: Short name, as `--only` takes it.
        question: The question that its table answers.
        run: `module:function`, imported in the stage's process.
        needs_s: Seconds that it needs at least on a GPU; with less time it does not start.
        limit_s: Seconds after which it is stopped.
        process: `shared` runs in the process of the stages before it, with their model. `fresh`
            starts a process that later stages share. `own` starts a process for this stage alone.
        uses: `model` is SDXL, loaded by Swell; `weights` is its folder; `nothing` is neither.
    """

    name: str
    question: str
    run: str
    needs_s: int
    limit_s: int
    process: Literal["shared", "fresh", "own"] = "shared"
    uses: Literal["nothing", "weights", "model"] = "model"


#: Seconds that loading the shared model takes at most; its blocks were compiled by then.
LOADING_S = 40

STAGES = (
    Stage(
        name="make",
        question="How long does it take to make SDXL with random weights and to write it to disk?",
        run="gpu.stages_weights:make",
        needs_s=30,
        limit_s=120,
        uses="nothing",
    ),
    Stage(
        name="swell",
        question="How long does a picture take in Swell, alone and with others?",
        run="gpu.stages_engine:pictures",
        needs_s=90,
        limit_s=190,
        process="own",
        uses="weights",
    ),
    Stage(
        name="restart",
        question="How long does a second process take to load the model with compiled programs?",
        run="gpu.stages_engine:restart",
        needs_s=10,
        limit_s=70,
        process="fresh",
    ),
    Stage(
        name="bits",
        question="Does a picture have the same bits alone, again, in a batch, and in fast mode?",
        run="gpu.stages_engine:bits",
        needs_s=20,
        limit_s=60,
    ),
    Stage(
        name="ckpt",
        question="Does a picture that resumes from a checkpoint have the same bits?",
        run="gpu.stages_engine:checkpoint",
        needs_s=10,
        limit_s=30,
    ),
    Stage(
        name="preview",
        question="How much longer does a picture take with previews?",
        run="gpu.stages_engine:previews",
        needs_s=10,
        limit_s=30,
    ),
    Stage(
        name="lora",
        question="How long does a change of LoRAs take, and does the model return to its own bits?",
        run="gpu.stages_engine:loras",
        needs_s=20,
        limit_s=60,
    ),
    Stage(
        name="swap",
        question="How long does the model take to leave the GPU and to return?",
        run="gpu.stages_memory:swap",
        needs_s=15,
        limit_s=40,
    ),
    Stage(
        name="busy",
        question="Which share of the time does the GPU compute while Swell draws?",
        run="gpu.stages_engine:busy",
        needs_s=30,
        limit_s=60,
    ),
    Stage(
        name="memory",
        question="How much memory do steps and decoding need on top of the weights?",
        run="gpu.stages_memory:memory",
        needs_s=15,
        limit_s=40,
    ),
    Stage(
        name="oom",
        question="What happens to eight pictures when little memory is free?",
        run="gpu.stages_memory:out_of_memory",
        needs_s=25,
        limit_s=60,
    ),
    Stage(
        name="raw",
        question="How long does a picture take in diffusers, without Swell?",
        run="gpu.stages_network:diffusers_alone",
        needs_s=45,
        limit_s=90,
        process="own",
        uses="weights",
    ),
    Stage(
        name="rows",
        question="How long does one step take, by rows, size and way of running?",
        run="gpu.stages_network:step_times",
        needs_s=40,
        limit_s=150,
        process="own",
        uses="weights",
    ),
    Stage(
        name="graphs",
        question="How much faster is a step that a CUDA graph replays?",
        run="gpu.stages_network:cuda_graphs",
        needs_s=40,
        limit_s=80,
        process="own",
        uses="weights",
    ),
    Stage(
        name="http",
        question="How long does a picture take over HTTP, and what if the model process is killed?",
        run="gpu.stages_service:over_http",
        needs_s=70,
        limit_s=120,
        process="own",
        uses="weights",
    ),
    Stage(
        name="two",
        question="How long does a change between two models take that do not fit together?",
        run="gpu.stages_service:two_models",
        needs_s=90,
        limit_s=130,
        process="own",
        uses="weights",
    ),
    Stage(
        name="poison",
        question="What happens to four pictures when the GPU fails in a step?",
        run="gpu.stages_engine:poison",
        needs_s=40,
        limit_s=80,
        process="own",
        uses="weights",
    ),
    Stage(
        name="offload",
        question="How much slower is a model with parts in the host's memory?",
        run="gpu.stages_memory:offload",
        needs_s=60,
        limit_s=150,
        process="own",
        uses="weights",
    ),
    Stage(
        name="fp8",
        question="How fast, how large and how close to half precision is SDXL in float8?",
        run="gpu.stages_memory:float8",
        needs_s=90,
        limit_s=130,
        process="own",
        uses="weights",
    ),
    Stage(
        name="big",
        question="How long does one step of SD 3.5 Large and of FLUX.1 dev take?",
        run="gpu.stages_network:large_networks",
        needs_s=60,
        limit_s=240,
        process="own",
        uses="nothing",
    ),
    Stage(
        name="flux",
        question="How long does a picture of FLUX.1 dev with its text encoders take in Swell?",
        run="gpu.stages_engine:flux_pictures",
        needs_s=200,
        limit_s=400,
        process="own",
        uses="nothing",
    ),
)
