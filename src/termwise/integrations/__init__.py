"""Other programs that Termwise works with; no library of theirs is imported before it is used.

termwise.integrations.huggingface    a callback for the Trainer of transformers
termwise.integrations.lightning      a callback for the Trainer of Lightning
termwise.integrations.watch          for a loop of one's own: a Recorder that cannot break it
termwise.integrations.sinks          what is recorded, shown in TensorBoard, wandb, trackio, MLflow
termwise.integrations.mcp            the verbs of the command as tools, by the Model Context Protocol
"""
