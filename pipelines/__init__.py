"""The jobs: a module for each verb on top, the machinery in packages below."""

from pipelines.runtime import environment

environment.prepare()
