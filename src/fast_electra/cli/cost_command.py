"""`fast-electra cost`: counts operations and memory of joint ELECTRA and Fast-ELECTRA."""

from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators


def cost(
    config: str,
    /,
    *overrides: str,
    vocabulary: Annotated[int | None, Parameter(validator=validators.Number(gte=8))] = None,
    length: Annotated[int | None, Parameter(validator=validators.Number(gte=8))] = None,
    micro_batch: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 32,
    auxiliary_layers: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    head: Literal["masked", "all", "both"] = "both",
    json: bool = False,
) -> None:
    """Count operations and memory of each part, on the models and by formula; nothing is trained or downloaded.

    Parameters
    ----------
    config
        A preset's name or a YAML file.
    overrides
        Settings, each as section.key=value.
    vocabulary
        Size of the vocabulary in tokens; default: that of the configuration.
    length
        Length of a row in tokens; default: that of the configuration.
    micro_batch
        Number of rows whose activations are in memory at the same time.
    auxiliary_layers
        Number of layers of the auxiliary; default: that of auxiliary.model or of the generator, or else a third of the
        main model's, at most 6.
    head
        Which positions pass through the auxiliary's head: masked, all, or a table for both.
    json
        Print one JSON object on standard output instead of text; it always has both tables.
    """
    from fast_electra.config import load_config
    from fast_electra.terminal import print_json

    settings = load_config(config, overrides if length is None else (*overrides, f"data.length={length}"))
    from fast_electra.studies.cost import cost as cost_of

    found = cost_of(settings, vocabulary, micro_batch, auxiliary_layers)
    if json:
        print_json({"config": config} | found)
        return
    _print(found, ("masked", "all") if head == "both" else (head,))


_WAYS = {"joint": "joint ELECTRA", "online": "on the fly", "cached": "cached"}
_HEADS = {
    "masked": "only masked positions pass through the auxiliary's head",
    "all": "all positions pass through the head",
}
_COMPUTE = {
    "auxiliary": "auxiliary",
    "main": "main model",
    "total": "total",
    "auxiliary_training": "training the auxiliary",
    "cache_building": "building the cache",
    "total_with_preparation": "total including these, one run",
}
_MEMORY = {
    "auxiliary": "because of the auxiliary",
    "main": "main model",
    "total": "total",
    "transients": "briefly, while sampling",
}


def _print(found: dict[str, Any], heads: tuple[str, ...]) -> None:
    from fast_electra.terminal import Terminal

    console = Terminal()
    shape = found["shape"]
    main, auxiliary = (
        f"{model['architecture']} {model['layers']} × {model['hidden_size']}"
        for model in (shape["main"], shape["auxiliary"])
    )
    console.say(
        f"main model {main}, auxiliary {auxiliary}, vocabulary {shape['vocabulary']:,}, "
        f"{shape['micro_batch']} × {shape['length']} tokens, {shape['masked_positions']} masked per row\n"
    )
    for head in heads:
        console.say((_HEADS[head], "bold"))
        _print_convention(console, found[f"head_{head}"])
    console.say(f"auxiliary's training: {found['auxiliary_training']['basis']}.")
    for assumption in found["assumptions"]:
        console.say((f"- {assumption}.", "dim"))


def _print_convention(console: Any, costs: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("")
    for name in _WAYS.values():
        table.add_column(name, justify="right")
    flops, bytes_ = costs["flops_per_token"], costs["memory_bytes"]
    for title, rows, labels, unit, digits in (
        ("MFLOP per token, counted", flops, _COMPUTE, 1e6, 1),
        ("memory, GB", bytes_, _MEMORY, 1e9, 2),
    ):
        table.add_row(title, style="dim")
        for part, label in labels.items():
            table.add_row(f"  {label}", *(f"{rows[way][part] / unit:,.{digits}f}" for way in _WAYS))
            if part == "total":
                table.add_row("    of joint", *(f"{rows[way][part] / rows['joint'][part]:.1%}" for way in _WAYS))
        if rows is flops:
            formula = costs["flops_per_token_by_formula"]
            table.add_row("  total by formula", *(f"{formula[way]['total'] / unit:,.{digits}f}" for way in _WAYS))
    console.print(table)
    pays = costs["pays_from_run"]
    console.say(
        f"saved on the fly: {costs['total_compute_saving']:.1%} of the compute "
        f"({costs['auxiliary_compute_saving']:.1%} of the auxiliary's), "
        f"{costs['total_memory_saving']:.1%} of the memory ({costs['auxiliary_memory_saving']:.1%}); "
        f"cached: {costs['cached']['total_compute_saving']:.1%} and {costs['cached']['total_memory_saving']:.1%}.\n"
        f"With preparation, less compute than joint ELECTRA: on the fly from run {pays['online']}, cached from run "
        f"{pays['cached']}. A cache needs less than on the fly from run {pays['cached_against_online']}.\n"
    )
