"""The sidecar as a whole: its configuration, and what is built from it."""

from wafermon.sidecar.load import find_config, load, parse
from wafermon.sidecar.reload import Reloader
from wafermon.sidecar.schema import Config
from wafermon.sidecar.sidecar import Sidecar

__all__ = ["Config", "Reloader", "Sidecar", "find_config", "load", "parse"]
