"""`simpletune completion SHELL`: the script that makes a shell complete commands, options and keys.

click answers the shells, as it does for its own scripts. These differ in that no space follows `key=`, and that in
bash, which takes `key=value` for three words, values are completed too.
"""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

VARIABLE = "_SIMPLETUNE_COMPLETE"

_BASH = """\
_simpletune_completion() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _SIMPLETUNE_COMPLETE=bash_complete "$1"); do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            *) COMPREPLY+=("${line#*,}") ;;
        esac
    done
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o nosort -F _simpletune_completion simpletune
"""

_ZSH = """\
#compdef simpletune
_simpletune_completion() {
    local -a response described plain ending
    local kind value about
    (( ! $+commands[simpletune] )) && return 1
    response=(
        "${(@f)$(_SIMPLETUNE_COMPLETE=zsh_complete COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) simpletune)}"
    )
    for kind value about in ${response}; do
        case $kind in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                [[ $value == *= ]] && ending=(-S "")
                if [[ $about == _ ]]; then plain+=("$value"); else described+=("$value:$about"); fi ;;
        esac
    done
    (( $#described )) && _describe -V keys described -U "${ending[@]}"
    (( $#plain )) && compadd -U -V keys "${ending[@]}" -a plain
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _simpletune_completion "$@"
else
    compdef _simpletune_completion simpletune
fi
"""

_FISH = """\
function _simpletune_completion
    set -l words COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t)
    for line in (env _SIMPLETUNE_COMPLETE=fish_complete $words simpletune)
        set -l parts (string split -m 1 , -- $line)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end
complete --no-files --command simpletune --arguments "(_simpletune_completion)"
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_PUT = {
    "bash": 'put this line into ~/.bashrc:  eval "$(simpletune completion bash)"',
    "zsh": 'put this line into ~/.zshrc, below compinit:  eval "$(simpletune completion zsh)"',
    "fish": "type this once:  simpletune completion fish > ~/.config/fish/completions/simpletune.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and keys in SHELL; its last line says where to put it."""
    click.echo(f"{_SCRIPTS[shell]}# To complete in every new {shell}, {_PUT[shell]}")


def install() -> None:
    """Have click answer bash as the script above asks."""
    add_completion_class(_Bash)


class _Bash(BashComplete):
    """bash ends words at "=": `--set optimizer=ad` comes as three, and only what follows the "=" is replaced."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        return joined(words, incomplete)

    def format_completion(self, item: CompletionItem) -> str:
        words, incomplete = super().get_completion_args()
        value = str(item.value)
        if "=" in (incomplete, *words[-1:]):
            value = value.partition("=")[2] or value
        return f"{item.type},{value}"


def joined(words: list[str], incomplete: str) -> tuple[list[str], str]:
    """The words before the one being typed, and that one, with `key`, `=` and `value` made one again."""
    made: list[str] = []
    for word in [*words, incomplete]:
        begun = bool(made) and not made[-1].startswith("-")
        if begun and (word == "=" or made[-1].endswith("=")):
            made[-1] += word
        else:
            made.append(word)
    return made[:-1], made[-1]
