"""How much arithmetic training takes: 6 for each weight in a matrix product and token (2 forward, 4
backward), and 12 · layers · width · context for attention.

Source: Chowdhery et al., PaLM (2022), appendix B.
"""

from tricycle_gpt.model import GPT


def flops_per_token(model: GPT) -> float:
    """Floating point operations that training takes for each token (PaLM's count, appendix B).

    Six for each number that is multiplied (two forward, four backward), and attention's
    12 layers · width · context.  A table that is only looked up is not counted.
    """
    config = model.config
    multiplied = model.n_parameters()
    if config.family.learned_positions:
        multiplied -= config.context_window * config.embedding_dim
    if not config.tied_head:
        multiplied -= config.vocab_size * config.embedding_dim
    width = config.n_heads * config.head_size
    attention = 12 * config.n_layers * width * config.context_window
    return float(6 * multiplied + attention)
