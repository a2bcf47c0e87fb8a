"""One function per stage: inputs as parameters, a frozen dataclass out. A stage never imports a stage."""
