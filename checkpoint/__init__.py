"""What comes in: the config, tokenizer and weights of a merged Hugging Face checkpoint, as typed facts."""

from checkpoint.config import GenerationConfig, ModelConfig
from checkpoint.findings import CheckpointFlaw, Finding
from checkpoint.inspect import Survey, survey
from checkpoint.model import ChatTemplates, Checkpoint
from checkpoint.plain import PlainWeights
from checkpoint.rows import DerivedRows, Rows, StoredRows
from checkpoint.safetensors import TensorInfo
from checkpoint.sentencepiece import Piece, PieceKind, PieceModel, read_pieces
from checkpoint.stored_tensors import quantized_weights
from checkpoint.tokenizer import AddedToken, Tokenizer
from checkpoint.weights import Weights

__all__ = [
    "AddedToken",
    "ChatTemplates",
    "Checkpoint",
    "CheckpointFlaw",
    "DerivedRows",
    "Finding",
    "GenerationConfig",
    "ModelConfig",
    "Piece",
    "PieceKind",
    "PieceModel",
    "PlainWeights",
    "Rows",
    "StoredRows",
    "Survey",
    "TensorInfo",
    "Tokenizer",
    "Weights",
    "quantized_weights",
    "read_pieces",
    "survey",
]
