"""More ids for a model that has been trained."""

from __future__ import annotations

import torch

from smidgen.model.decoder import Decoder


@torch.no_grad()
def grow_vocabulary(model: Decoder, vocab_size: int) -> Decoder:
    """A model with `vocab_size` ids whose answers on the old ones are the same; every weight is copied.

    Rows of new ids, in the embedding and in an untied head, are the mean of the old rows: then a new token is at most
    about as likely as the average old one (Hewitt, 2021), whereas random rows may win every softmax.
    """
    old = model.config.vocab_size
    assert vocab_size >= old
    if vocab_size == old:
        return model
    grown = Decoder(model.config.model_copy(update={"vocab_size": vocab_size}))
    weights = model.state_dict()
    for name, weight in grown.state_dict().items():
        source = weights[name]
        if not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            weight.copy_(source)
            continue
        weight[:old] = source[:old]
        weight[old:vocab_size] = source[:old].float().mean(0).to(source.dtype)
        weight[vocab_size:] = 0
    return grown.train(model.training)
