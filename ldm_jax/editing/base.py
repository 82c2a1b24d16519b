"""What every editing method has in common.

Each other file of this room is one method and has:
    edit(denoiser, *, **options) -> samplers.base.Edit    what is done around each step of a sampling run. Options annotated `Array`
                                  are arguments of the compiled program: no value of theirs compiles anew. All others are static.
    guide(eps_fn, denoiser, *, **options) -> EpsFn    left out by most: what it does to the prediction, around guidance; options are edit's
    INVERSION: str | dict         how a given picture is inverted for it, as of LatentDiffusion.invert; left out: by DDIM under its prompt
    NEUTRAL: dict[str, Any]       options with which the method changes nothing
    EACH: tuple[str, ...]         those of the arrays that have one entry per picture; left out where there are none
    BRANCHES: tuple[str, ...]     options that are prompts, each drawn as a branch before the picture itself, with its seed; left out
                                  by methods that look at no other picture. Rows are laid out as control/rows.py says
    NEEDS: tuple[str, ...]        fields of the Denoiser that may not be None; left out where nothing is needed
    GRADIENTS: bool               whether it asks for gradients through the network, whose blocks are then computed again for them and
                                  not kept; left out by those that do not
    CONTROLS: bool                whether it hands the network a Control; left out by those that do not
    BESIDE: tuple[str, ...]       the only methods that it can be combined with; left out by those that go with any
    PICTURES: dict[str, str]      options that are pictures, each in the place of the branch whose prompt the other option is: `edit` hands
                                  prepare the trajectory that it is inverted to, [N, S + 1, h, w, c]; left out where there is none
    DRAWS: str                    where prepare itself says what more is drawn beside the picture: the name under which it gives
                                  {branch: a prompt for each picture}, after those of BRANCHES; left out where there is nothing
    CONDITIONS: tuple[str, ...]   options of edit or recondition that are prompts to be encoded and not drawn: prepare gives K lists of N,
                                  and K Conds of the rows arrive; left out where there are none
    recondition(denoiser, *, **options) -> Denoiser   what the network is told in the place of its conditions, before guidance stands
                                  around it; left out by most. Its options are read like edit's
    prepare(call, *, **options) -> dict[str, Any]     left out by many: makes edit's options out of what a user says, on the host,
                                  checked; call is an inference.methods.Call. None if they are neutral
It does not know how a method is chosen (inference/methods.py), nor which other methods are in use.
"""
