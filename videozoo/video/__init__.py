"""From a video to the clips that a network sees: decoding, frame sampling, resize, crops, normalisation."""
