"""Write latents as bytes: uniform codes that engines understand, and trellis codes of any number of bytes."""

from vaecodec.codes.calibration import Calibration
from vaecodec.codes.code import Code, CodeType
from vaecodec.codes.residual import ResidualCode
from vaecodec.codes.trellis import TrellisCode, TrellisTables

__all__ = ["Calibration", "Code", "CodeType", "ResidualCode", "TrellisCode", "TrellisTables"]
