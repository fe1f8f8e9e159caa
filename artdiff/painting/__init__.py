"""Paint pictures with a trained model: plan them, check the settings, run the sampler."""
