"""Whether the layers of a model were drawn as one."""
