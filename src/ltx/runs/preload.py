"""What the fork server loads once for all workers: modules, and the embedded data. No torch operation runs in it."""

import safetensors.torch  # noqa: F401

import ltx.methods.imp
import ltx.models.lenet
import ltx.runs.worker  # noqa: F401
from ltx.data.digits import examples

examples()
