"""How the last run of an image ended: by its super blocks, which outlive a restart, and its state."""

from pramfs.control import run_state
from pramfs.control.run_state import State
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.storage.layout import SuperBlock

_ENDS = (run_state.SAVED, run_state.FAILED, run_state.MOVED)


def ended_badly(image: Image, current: SuperBlock) -> str:
    """Return the message about a last run that has lost something, "" if it has not.

    It also says what the save in force lacks. Only for a run that is over: somebody else can lock the image.
    """
    state = run_state.last_state(image, current.uuid)
    told = _how_it_ended(image, current, state)
    if state is not None and state.incomplete and told.endswith(state.incomplete):
        return told  # with the names of files
    lacks = [str(shortcoming) for shortcoming in superblock.shortcomings(current)]
    if lacks and not told:
        lacks[0] = f"last run's {lacks[0]}"
    return "; ".join([*([told] if told else []), *(f"the {words}" for words in lacks)])


def _how_it_ended(image: Image, current: SuperBlock, state: State | None) -> str:
    changed_by = superblock.changed_by(image, current)
    lost_something = superblock.is_unclean(image, current)
    if state is not None and state.run == (changed_by or current.run).hex():
        # A daemon may be killed after its final save, and before it has recorded that in its state.
        if lost_something or state.phase in _ENDS:
            return state.ended_badly
    elif state is not None and not lost_something and state.generation >= current.generation:
        return state.ended_badly  # of a run that has changed nothing
    if lost_something:
        lost = f"any change since generation {current.generation} is lost"
        return f"the last run ended without a final save; {lost}"
    return ""
