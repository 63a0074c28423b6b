"""Commands of LaTeX, as language models write them in formulas → signs and words."""

import regex

from app.text.patterns import pattern

MAX_NESTING = 4


def strip_commands(text: str) -> str:
    r"""`\frac{1}{2} \times \alpha` → `1/2 × alpha`. Unknown commands and paths of files stay."""
    text = _RAISED_OR_LOWERED.sub(lambda script: f"{_SCRIPTS[script[1]]}{script[2]}", text)
    if "\\" not in text:
        return text
    text = _RUN.sub(_words, _DEGREES.sub("°", text))
    for _ in range(MAX_NESTING):  # the innermost arguments first
        text = _WITH_ARGUMENTS.sub(_show, text)
    return text


def _words(run: regex.Match[str]) -> str:
    """What a run of commands says, with a space before the word that follows."""
    words = [_SIGNS.get(name, name) for name in _COMMAND.findall(run[0]) if name not in _SILENT]
    following = run.string[run.end() : run.end() + 1]
    return f" {' '.join(words)}{'' if following in ',.;:!?)]}' else ' '}"


def _show(command: regex.Match[str]) -> str:
    if command["root"] is not None:
        return f"√{command['root']}"
    if command["numerator"] is not None:
        return f"{command['numerator']}/{command['denominator']}"
    return str(command["text"] or " ")


_SIGNS = {
    "times": "×", "cdot": "×", "ast": "×", "div": "÷", "pm": "±", "mp": "∓", "le": "≤", "leq": "≤",
    "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "sim": "≈", "equiv": "≡",
    "infty": "∞", "to": "→", "rightarrow": "→", "Rightarrow": "→", "implies": "→",
    "leftarrow": "←", "sum": "∑", "prod": "∏", "int": "∫", "partial": "∂", "nabla": "∇", "in": "∈",
    "notin": "∉", "cup": "∪", "cap": "∩", "subset": "⊂", "forall": "∀", "exists": "∃",
    "ldots": "…", "dots": "…", "cdots": "…", "circ": "°", "degree": "°",
    "therefore": "∴", "angle": "∠",
}  # fmt: skip
_SILENT = {"left", "right", "quad", "qquad", "displaystyle", "limits", "big", "Big"}
_WORDS = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln", "exp"),
    *("lim", "max", "min", "sup", "inf", "det", "gcd", "mod", "deg", "arg", "pi"),
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota"),
    *("kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi"),
    *("chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi"),
    *("Psi", "Omega"),
)
_SCRIPTS = {"^": "^", "_": " "}

_ARGUMENT = r"\{{(?P<{}>[^{{}}\\]{{0,200}}+)\}}"
_WITH_ARGUMENTS = pattern(
    rf"\\(?:sqrt{_ARGUMENT.format('root')}"
    rf"|[dt]?frac{_ARGUMENT.format('numerator')}{_ARGUMENT.format('denominator')}"
    r"|(?:text|textbf|textit|mathrm|mathbf|mathit|mathbb|mathcal|operatorname|boxed|vec|hat|bar"
    rf"|overline|underline){_ARGUMENT.format('text')}|(?:begin|end)\{{[a-z*]{{1,20}}\}})"
)
_DEGREES = pattern(r"\^\{?\\circ\b\}?")
_RAISED_OR_LOWERED = pattern(r"(?<=[\w)}])([\^_])\{([^{}]{1,40}+)\}")
_NAME = "|".join(sorted({*_SIGNS, *_SILENT, *_WORDS}, key=len, reverse=True))
# A path such as C:\new\pi has letters, a colon or a backslash before a command's name.
_RUN = pattern(rf"(?<![A-Za-z:\\][A-Za-z])(?<![:\\])[ ]?(?:\\(?:{_NAME})(?![A-Za-z])[ ]?)++")
_COMMAND = pattern(rf"\\({_NAME})")
