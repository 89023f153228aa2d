"""Termwise in the training loops that people already have; no library of theirs is imported before it is used.

termwise.integrations.huggingface    a callback for the Trainer of transformers
termwise.integrations.lightning      a callback for the Trainer of Lightning
termwise.integrations.watch          for a loop of one's own: a Recorder that cannot break it
termwise.integrations.sinks          what is recorded, shown in TensorBoard, wandb, trackio, MLflow
"""
