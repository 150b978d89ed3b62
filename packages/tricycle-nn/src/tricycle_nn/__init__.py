"""Layers, losses and optimisers, each with the mathematics to read and kernels to run."""

from tricycle_nn.activations import elu, hard_sigmoid, leaky_relu, mish, selu, softplus
from tricycle_nn.adamw import AdamW
from tricycle_nn.attention import CausalSelfAttention, attention, packed_attention
from tricycle_nn.clipping import clip_scale, gradient_norm, scale_for_norm
from tricycle_nn.combined import Combined
from tricycle_nn.cross_entropy import cross_entropy
from tricycle_nn.dropout import Dropout, dropout, dropout_off, set_dropout_step
from tricycle_nn.embedding import Embedding, embedding
from tricycle_nn.gelu import gelu
from tricycle_nn.group_norm import group_norm
from tricycle_nn.initialisers import kaiming, normal, uniform, xavier
from tricycle_nn.layer_norm import LayerNorm, add_layer_norm, layer_norm
from tricycle_nn.linear import Linear, linear
from tricycle_nn.linear_cross_entropy import linear_cross_entropy
from tricycle_nn.llama_block import LlamaBlock
from tricycle_nn.mean_squared_error import mean_squared_error
from tricycle_nn.mlp import MLP, GatedMLP
from tricycle_nn.module import Module
from tricycle_nn.muon import Muon
from tricycle_nn.olmo2_block import Olmo2Block
from tricycle_nn.optimiser import default_groups
from tricycle_nn.parameter import Parameter
from tricycle_nn.relu import relu, relu_squared
from tricycle_nn.rms_norm import RMSNorm, add_rms_norm, rms_norm
from tricycle_nn.rotary import RotaryScaling, rotary
from tricycle_nn.schedules import CosineSchedule, LinearSchedule, WarmupStableDecay
from tricycle_nn.sgd import SGD
from tricycle_nn.softmax import log_softmax, softmax
from tricycle_nn.swiglu import silu, swiglu
from tricycle_nn.token_scores import token_scores
from tricycle_nn.transformer_block import TransformerBlock

__all__ = [
    "MLP",
    "SGD",
    "AdamW",
    "CausalSelfAttention",
    "Combined",
    "CosineSchedule",
    "Dropout",
    "Embedding",
    "GatedMLP",
    "LayerNorm",
    "Linear",
    "LinearSchedule",
    "LlamaBlock",
    "Module",
    "Muon",
    "Olmo2Block",
    "Parameter",
    "RMSNorm",
    "RotaryScaling",
    "TransformerBlock",
    "WarmupStableDecay",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "clip_scale",
    "cross_entropy",
    "default_groups",
    "dropout",
    "dropout_off",
    "elu",
    "embedding",
    "gelu",
    "gradient_norm",
    "group_norm",
    "hard_sigmoid",
    "kaiming",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "mean_squared_error",
    "mish",
    "normal",
    "packed_attention",
    "relu",
    "relu_squared",
    "rms_norm",
    "rotary",
    "scale_for_norm",
    "selu",
    "set_dropout_step",
    "silu",
    "softmax",
    "softplus",
    "swiglu",
    "token_scores",
    "uniform",
    "xavier",
]
