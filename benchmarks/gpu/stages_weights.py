"""Weights of true size."""

import os
import shutil
import time

from gpu.rig import Rig
from gpu.true_size import sdxl_pipeline


def make(rig: Rig) -> None:
    """Write SDXL with random weights to the work folder."""
    rig.require(gpu_gib=10, disk_gib=10)
    shutil.rmtree(rig.sdxl, ignore_errors=True)
    begin_s = time.perf_counter()
    pipeline = sdxl_pipeline(rig)
    rig.wait()
    rig.fact("make the networks on the device", round(time.perf_counter() - begin_s, 1), "s")
    begin_s = time.perf_counter()
    pipeline.save_pretrained(rig.sdxl, max_shard_size="20GB")
    os.sync()
    rig.fact("write them to disk", round(time.perf_counter() - begin_s, 1), "s")
    size = sum(path.stat().st_size for path in rig.sdxl.rglob("*.safetensors"))
    rig.fact("size on disk", rig.gib(size), "GiB")
    millions = sum(each.numel() for each in pipeline.unet.parameters()) / 1e6
    rig.fact("parameters of the U-Net", round(millions), "million")
