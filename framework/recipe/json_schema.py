"""The dataclasses of recipes and other files -> JSON Schema, for editors."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, get_args, get_origin

from framework.core.registries import all_names, registry
from framework.core.settings import Rule, documentation, required, rule_of, summary
from framework.recipe.build import field_types, fields_of
from framework.recipe.schema import Recipe

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{"}


def recipe_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a recipe file.

    A file may extend others and write only what differs, so no key of a section is required; a
    list is always written whole, so its items are complete.
    """
    definitions: dict[str, Schema] = {}
    body = _section(Recipe, definitions, whole=False)
    body["properties"]["extends"] = {
        "description": "Recipe files, relative to this one, that this one is laid over.",
        "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return {
        **_head("Recipe"),
        **body,
        "$defs": definitions,
    }


def file_schema(owner: type, title: str) -> Schema:
    """JSON Schema of a file that `read_typed` reads."""
    definitions: dict[str, Schema] = {}
    return _whole_file(title, _section(owner, definitions), definitions)


def named_file_schema(owner: type, title: str) -> Schema:
    """JSON Schema of a file that `read_named` reads."""
    definitions: dict[str, Schema] = {}
    named = {"type": "object", "additionalProperties": _section(owner, definitions)}
    return _whole_file(title, named, definitions)


def _whole_file(title: str, body: Schema, definitions: dict[str, Schema]) -> Schema:
    """Such a file has no interpolations."""
    schema = {**_head(title), **body}
    if definitions:
        schema["$defs"] = definitions
    return _uninterpolated(schema)


def _head(title: str) -> Schema:
    """Of any schema; its comment tells of which components it is."""
    return {"$schema": DRAFT, "title": title, "$comment": all_names()}


def _uninterpolated(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_uninterpolated(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    options = schema.get("anyOf", [])
    if _INTERPOLATION in options:
        (option,) = (one for one in options if one != _INTERPOLATION)
        schema = {**option, **{key: value for key, value in schema.items() if key != "anyOf"}}
    return {key: _uninterpolated(value) for key, value in schema.items()}


def _section(owner: type, definitions: dict[str, Schema], *, whole: bool = True) -> Schema:
    properties: dict[str, Schema] = {}
    inline: dataclasses.Field[Any] | None = None
    for name, field in fields_of(owner).items():
        if rule_of(field).inline:
            inline = field
        else:
            properties[name] = _field(owner, field, definitions)
    schema: Schema = {
        "type": "object",
        "description": summary(owner),
        "properties": properties,
        "additionalProperties": False,
    }
    needed = required(owner)
    if needed and whole:
        schema["required"] = list(needed)
    return schema if inline is None else _with_inline(schema, inline, definitions)


def _with_inline(
    schema: Schema, inline: dataclasses.Field[Any], definitions: dict[str, Schema]
) -> Schema:
    """The section once for each component whose fields may stand beside its own."""
    kind = rule_of(inline).slot
    variants = []
    for name in registry(kind).names():
        own = _component(kind, name, definitions)
        properties = {**schema["properties"], **own["properties"]}
        needed = [*own["required"]]
        if name == inline.default:
            needed.remove("type")
        variants.append(
            {
                **schema,
                "description": own["description"],
                "properties": properties,
                "required": needed,
            }
        )
    return {"oneOf": variants}


def _field(owner: type, field: dataclasses.Field[Any], definitions: dict[str, Schema]) -> Schema:
    rule = rule_of(field)
    if rule.slot:
        slot = _slot(rule, definitions)
        schema: Schema = {"type": "array", "items": slot} if field.default == () else dict(slot)
    else:
        schema = _annotation(field_types(owner)[field.name], definitions)
        schema = _with_rule(schema, rule)
    text = documentation(owner).get(field.name, "")
    if text:
        schema["description"] = " ".join(text.split())
    if isinstance(field.default, (bool, int, float, str)):
        schema["default"] = field.default
    return schema


def _slot(rule: Rule, definitions: dict[str, Schema]) -> Schema:
    names = registry(rule.slot).names()
    for name in names:
        key = f"{rule.slot}.{name}"
        if key not in definitions:
            definitions[key] = {}
            definitions[key] = _component(rule.slot, name, definitions)
    short: Schema = {"type": "string"} if rule.locator else {"enum": list(names)}
    whole = [{"$ref": f"#/$defs/{rule.slot}.{name}"} for name in names]
    return {"anyOf": [short, *whole]}


def _component(kind: str, name: str, definitions: dict[str, Schema]) -> Schema:
    component = registry(kind).get(name)
    schema = _section(component, definitions)
    schema["properties"] = {"type": {"const": name}, **schema["properties"]}
    schema["required"] = ["type", *schema.get("required", [])]
    return schema


def _annotation(annotation: Any, definitions: dict[str, Schema]) -> Schema:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        options = [_annotation(option, definitions) for option in arguments]
        return {"anyOf": options}
    if annotation is Any:
        return {}
    if annotation is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        item = arguments[0]
        if dataclasses.is_dataclass(item):
            return {"type": "array", "items": _section(typing.cast(type, item), definitions)}
        number = {} if arguments[-1] is Ellipsis else _exactly(len(arguments))
        return {"type": "array", "items": _annotation(item, definitions), **number}
    if origin is dict:
        return {"type": "object", "additionalProperties": _annotation(arguments[1], definitions)}
    if dataclasses.is_dataclass(annotation):
        return _section(typing.cast(type, annotation), definitions, whole=False)
    if annotation is str:
        return {"type": "string"}
    return {"anyOf": [{"type": _TYPES[annotation]}, _INTERPOLATION]}


def _exactly(number: int) -> Schema:
    return {"minItems": number, "maxItems": number}


def _with_rule(schema: Schema, rule: Rule) -> Schema:
    limits = {
        "minimum": rule.at_least,
        "exclusiveMinimum": rule.above,
        "maximum": rule.at_most,
        "exclusiveMaximum": rule.below,
        "minItems": 1 if rule.not_empty else None,
        "minLength": 1 if rule.not_empty else None,
        "minProperties": 1 if rule.not_empty and schema.get("type") == "object" else None,
    }
    # Each limit applies to its own type only, so it may stand beside whatever `anyOf` allows.
    return {**schema, **{name: value for name, value in limits.items() if value is not None}}
