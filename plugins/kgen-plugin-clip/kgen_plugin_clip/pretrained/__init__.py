"""Published CLIP models, by OpenAI and OpenCLIP, from a local folder."""
