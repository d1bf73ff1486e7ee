"""Our own modelling file, shipped with the weights: any configuration, for transformers with `trust_remote_code`."""

from __future__ import annotations

from smidgen.config import ModelConfig
from smidgen.folders.architectures.base import Architecture, Tree
from smidgen.runtime.fields import Fields

REMOTE_FILES = ("configuration_smidgen.py", "linear_smidgen.py", "modeling_smidgen.py")
"""Files of `folders/remote` that go into the model folder."""


class Own(Architecture):
    """config.json holds the model section as it is; SmidgenConfig gives transformers the names it looks for."""

    model_type = "smidgen"
    class_name = "SmidgenForCausalLM"

    def describes(self, config: ModelConfig) -> bool:
        return True

    def write(self, config: ModelConfig) -> Tree:
        return {
            **config.model_dump(mode="json", exclude={"quantization"}),
            # The modelling file then leaves weights as they are; inputs it rounds as ever.
            "weights_are_rounded": config.quantization is not None,
            "auto_map": {
                "AutoConfig": "configuration_smidgen.SmidgenConfig",
                "AutoModel": "modeling_smidgen.SmidgenModel",
                "AutoModelForCausalLM": "modeling_smidgen.SmidgenForCausalLM",
            },
        }

    def read(self, fields: Fields) -> Tree:
        return {
            name: fields.values[name] for name in ModelConfig.model_fields if name in fields and name != "quantization"
        }
