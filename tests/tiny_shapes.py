"""A text model that knows the words of the shapes world, so small that measuring it costs more than drawing it."""

from tests import tiny_diffusion


def config() -> dict:
    """Latents of 8 x 8 cells: 64 x 64 pixels through an autoencoder of factor 8."""
    given = tiny_diffusion.get_config().to_dict()
    given["first_stage"] = dict(
        name="kl", channels=4, channel_mult=[1, 1, 1, 1], num_res_blocks=1, attn_type="none", z_channels=2,
        embed_dim=2, num_groups=2,
    )  # fmt: skip
    given["model"] |= dict(in_channels=2, out_channels=2, channel_mult=[1], attention_levels=[0], dropout=0.0)
    return given
