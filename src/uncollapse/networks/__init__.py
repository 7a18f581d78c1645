"""Networks: encoders and decoders that promise nothing by themselves."""

from uncollapse.networks.perceptron import Encoder, Features, MLPDecoder, Perceptron
from uncollapse.networks.recurrent import BackwardEncoder, SequenceEncoder

__all__ = ["BackwardEncoder", "Encoder", "Features", "MLPDecoder", "Perceptron", "SequenceEncoder"]
