"""Checkpoints on the Hugging Face Hub and on ModelScope, fetched through the hubs' own libraries."""

from checkpoint.hub.fetch import Fetched, fetch
from checkpoint.hub.reference import HubReference, parse_reference

__all__ = ["Fetched", "HubReference", "fetch", "parse_reference"]
