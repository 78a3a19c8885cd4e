"""`mpc completion bash|zsh|fish`: a script that completes commands, options and config keys in a shell.

The script holds all words, so that a shell completes without starting Python:

    eval "$(mpc completion bash)"        in ~/.bashrc; for zsh the same in ~/.zshrc
    mpc completion fish > ~/.config/fish/completions/mpc.fish
"""

from collections.abc import Callable

from pipelines.commands import COMMANDS, Command
from pipelines.config.keys import list_keys
from pipelines.config.recipe import shipped

LEVELS = ("--quiet", "--verbose", "--help")


def completion(shell: str) -> None:
    """Print the script of a shell."""
    print(SHELLS[shell](), flush=True)


def _options(command: Command) -> list[str]:
    own = [argument.name for argument in command.arguments if argument.name.startswith("--")]
    return [*(["--config"] if command.config != "none" else []), *own, *LEVELS]


def _overrides(command: Command) -> list[str]:
    """What begins an override: `train.batch_size=`. Of lists, the first place."""
    if not command.sections:
        return []
    listed = list_keys(*command.sections)
    names = [key.name.replace(".N.", ".0.") for key in listed]
    return [f"{name}=" for name in names]


def _choices(command: Command) -> list[str]:
    """The words that an argument may be; of `mpc config`, the commands that read a config."""
    if command.name == "config":
        return [each.name for each in COMMANDS.values() if each.sections]
    return [str(choice) for argument in command.arguments for choice in argument.options.get("choices", ())]


def _words(command: Command) -> str:
    return " ".join([*_choices(command), *_options(command), *_overrides(command)])


def _bash() -> str:
    cases = "\n".join(f"    {command.name}) words='{_words(command)}' ;;" for command in COMMANDS.values())
    return f"""_mpc() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} command= words= word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ $word == -* ]] || {{ command=$word; break; }}
  done
  case $command in
    '') words='{" ".join([*COMMANDS, "--version", *LEVELS])}' ;;
{cases}
  esac
  if [[ ${{COMP_WORDS[COMP_CWORD-1]}} == --config ]]; then words='{" ".join(shipped())}'; fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [[ ${{#COMPREPLY[@]}} -gt 0 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
  return 0
}}
complete -o default -F _mpc mpc"""


def _zsh() -> str:
    cases = "\n".join(
        f"    {command.name}) compadd -- {' '.join([*_choices(command), *_options(command)])}"
        + (f"; compadd -S '' -- {' '.join(_overrides(command))}" if command.sections else "")
        + " ;;"
        for command in COMMANDS.values()
    )
    return f"""#compdef mpc
_mpc() {{
  local command= word
  for word in "${{words[@]:1:$((CURRENT - 2))}}"; do
    [[ $word == -* ]] || {{ command=$word; break; }}
  done
  if [[ ${{words[CURRENT-1]}} == --config ]]; then compadd -- {" ".join(shipped())}; _files; return; fi
  case $command in
    '') compadd -- {" ".join([*COMMANDS, "--version", *LEVELS])}; return ;;
{cases}
  esac
  _files
}}
compdef _mpc mpc"""


def _fish() -> str:
    lines = []
    for command in COMMANDS.values():
        lines.append(f"complete -c mpc -n __fish_use_subcommand -f -a {command.name} -d {_quoted(command.summary)}")
        within = f"complete -c mpc -n '__fish_seen_subcommand_from {command.name}'"
        for option in _options(command):
            values = f" -r -a '{' '.join(shipped())}'" if option == "--config" else ""
            lines.append(f"{within} -l {option.removeprefix('--')}{values}")
        lines += [f"{within} -a {_quoted(word)}" for word in (*_choices(command), *_overrides(command))]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
