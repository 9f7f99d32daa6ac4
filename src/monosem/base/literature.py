"""The publications that methods cite, and how a citation is printed."""

import re
from dataclasses import dataclass

_ACCENTS = {"á": "{\\'a}", "é": "{\\'e}", "ç": "{\\c{c}}"}


@dataclass(frozen=True)
class Citation:
    """One publication.

    `authors` is the short form, as "Gao et al."; `people` are all of them, as "Gao, Leo and Wu, Jeffrey". Where these
    are not known here, the entry says "and others" after the names of the short form.

    Example:
        >>> Citation("gao2024", "Gao et al.", "Scaling and evaluating sparse autoencoders", 2024, "2406.04093").short
        'Gao et al. (2024), arXiv 2406.04093'
    """

    key: str
    authors: str
    title: str
    year: int
    arxiv: str = ""
    venue: str = ""
    people: str = ""
    note: str = ""

    @property
    def short(self) -> str:
        """Authors (year), where."""
        where = f"arXiv {self.arxiv}" if self.arxiv else self.venue
        return f"{self.authors} ({self.year})" + (f", {where}" if where else "")

    @property
    def bibtex(self) -> str:
        """A BibTeX entry in ASCII; capitals of the title that a style must keep stand in braces."""
        people = self.people or self.authors.replace(" et al.", " and others")
        title = re.sub(r"(?<!^)\b[\w-]*[A-Z][\w-]*|^\w+[A-Z]\w*", r"{\g<0>}", self.title)
        rows = {"author": people, "title": title, "year": str(self.year)}
        if self.arxiv:
            rows |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        if self.venue:
            rows["howpublished"] = self.venue
        if self.note:
            rows["note"] = self.note
        body = "".join(f"  {name} = {{{_ascii(value)}}},\n" for name, value in rows.items())
        return f"@misc{{{self.key},\n{body}}}"


def _ascii(text: str) -> str:
    return "".join(_ACCENTS.get(letter, letter) for letter in text)


BRICKEN_2023 = Citation(
    "bricken2023",
    "Bricken et al.",
    "Towards monosemanticity: decomposing language models with dictionary learning",
    2023,
    venue="Transformer Circuits Thread",
    people="Bricken, Trenton and Templeton, Adly and Batson, Joshua and Chen, Brian and Jermyn, Adam and "
    "Conerly, Tom and Turner, Nick and Anil, Cem and Denison, Carson and Askell, Amanda and Lasenby, "
    "Robert and Wu, Yifan and Kravec, Shauna and Schiefer, Nicholas and Maxwell, Tim and Joseph, Nicholas "
    "and Hatfield-Dodds, Zac and Tamkin, Alex and Nguyen, Karina and McLean, Brayden and Burke, Josiah E. "
    "and Hume, Tristan and Carter, Shan and Henighan, Tom and Olah, Christopher",
)
KARVONEN_2024 = Citation(
    "karvonen2024",
    "Karvonen et al.",
    "Measuring progress in dictionary learning for language model interpretability with board game models",
    2024,
    "2408.00113",
    people="Karvonen, Adam and Wright, Benjamin and Rager, Can and Angell, Rico and Brinkmann, Jannik and Smith, "
    "Logan and Mayrink Verdun, Claudio and Bau, David and Marks, Samuel",
)
RAJAMANOHARAN_2024A = Citation(
    "rajamanoharan2024a",
    "Rajamanoharan et al.",
    "Improving dictionary learning with gated sparse autoencoders",
    2024,
    "2404.16014",
    people="Rajamanoharan, Senthooran and Conmy, Arthur and Smith, Lewis and Lieberum, Tom and Varma, Vikrant "
    "and Kramár, János and Shah, Rohin and Nanda, Neel",
)
RAJAMANOHARAN_2024B = Citation(
    "rajamanoharan2024b",
    "Rajamanoharan et al.",
    "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders",
    2024,
    "2407.14435",
    people="Rajamanoharan, Senthooran and Lieberum, Tom and Sonnerat, Nicolas and Conmy, Arthur and Varma, "
    "Vikrant and Kramár, János and Nanda, Neel",
)
GAO_2024 = Citation(
    "gao2024",
    "Gao et al.",
    "Scaling and evaluating sparse autoencoders",
    2024,
    "2406.04093",
    people="Gao, Leo and Dupré la Tour, Tom and Tillman, Henk and Goh, Gabriel and Troll, Rajan and Radford, "
    "Alec and Sutskever, Ilya and Leike, Jan and Wu, Jeffrey",
)
BUSSMANN_2024 = Citation(
    "bussmann2024",
    "Bussmann et al.",
    "BatchTopK sparse autoencoders",
    2024,
    "2412.06410",
    people="Bussmann, Bart and Leask, Patrick and Nanda, Neel",
)
BUSSMANN_2025 = Citation(
    "bussmann2025",
    "Bussmann et al.",
    "Learning multi-level features with Matryoshka sparse autoencoders",
    2025,
    "2503.17547",
    people="Bussmann, Bart and Nabeshima, Noa and Karvonen, Adam and Nanda, Neel",
)
TANG_2025 = Citation(
    "tang2025",
    "Tang et al.",
    "A unified theory of sparse dictionary learning in mechanistic interpretability: "
    "piecewise biconvexity and spurious minima",
    2025,
    "2512.05534",
    people="Tang, Yiming and Saini, Harshvardhan and Yao, Zhaoqian and Lin, Zheng and Liao, Yizhen and Li, "
    "Qianxiao and Du, Mengnan and Liu, Dianbo",
    note="version 4 of April 2026",
)
MCDOUGALL_2025 = Citation(
    "mcdougall2025", "McDougall et al.", "Gemma Scope 2: technical paper", 2025, venue="Google DeepMind"
)
KORZNIKOV_2025 = Citation(
    "korznikov2025",
    "Korznikov et al.",
    "OrtSAE: orthogonal sparse autoencoders uncover atomic features",
    2025,
    "2509.22033",
)
BALAGANSKY_2025 = Citation(
    "balagansky2025",
    "Balagansky et al.",
    "Train one sparse autoencoder across multiple sparsity budgets to preserve interpretability and accuracy",
    2025,
    "2505.24473",
)
BRZOZOWSKI_2026 = Citation(
    "brzozowski2026",
    "Brzozowski and Chung",
    "Aligned training: a parameter-free method to improve feature quality and stability of sparse autoencoders",
    2026,
    "2605.18629",
)
KASSEM_2026 = Citation(
    "kassem2026",
    "Kassem et al.",
    "Delta-Crosscoder: robust crosscoder model diffing in narrow fine-tuning regimes",
    2026,
    "2603.04426",
)
JIRALERSPONG_2026 = Citation(
    "jiralerspong2026",
    "Jiralerspong and Bricken",
    "Cross-architecture model diffing with crosscoders: unsupervised discovery of differences between LLMs",
    2026,
    "2602.11729",
)
AYONRINDE_2024 = Citation(
    "ayonrinde2024",
    "Ayonrinde",
    "Adaptive sparse allocation with mutual choice and feature choice sparse autoencoders",
    2024,
    "2411.02124",
)
COSTA_2025 = Citation(
    "costa2025",
    "Costa et al.",
    "From flat to hierarchical: extracting sparse representations with matching pursuit",
    2025,
    "2506.03093",
)
GREGOR_2010 = Citation(
    "gregor2010", "Gregor and LeCun", "Learning fast approximations of sparse coding", 2010, venue="ICML"
)
FEL_2025 = Citation(
    "fel2025",
    "Fel et al.",
    "Archetypal SAE: adaptive and stable dictionary learning for concept extraction in large vision models",
    2025,
    "2502.12892",
)
ANTHROPIC_2025 = Citation(
    "anthropic2025",
    "Anthropic interpretability team",
    "Circuits updates, January 2025",
    2025,
    venue="Transformer Circuits Thread",
)
SPARSIFY_2024 = Citation("sparsify2024", "EleutherAI", "sparsify", 2024, venue="software")
SAELENS_2024 = Citation("saelens2024", "Bloom et al.", "SAELens", 2024, venue="software")
KUROCHKIN_2025 = Citation(
    "kurochkin2025",
    "Kurochkin et al.",
    "Train sparse autoencoders efficiently by utilizing features correlation",
    2025,
    "2505.22255",
    people="Kurochkin, Vadim and Aksenov, Yaroslav and Laptev, Daniil and Gavrilov, Daniil and Balagansky, Nikita",
)
MUDIDE_2024 = Citation(
    "mudide2024",
    "Mudide et al.",
    "Efficient dictionary learning with switch sparse autoencoders",
    2024,
    "2410.08201",
    people="Mudide, Anish and Engels, Joshua and Michaud, Eric J. and Tegmark, Max and Schroeder de Witt, Christian",
)
CHAUDHRY_2026 = Citation(
    "chaudhry2026",
    "Chaudhry et al.",
    "Feature starvation as geometric instability in sparse autoencoders",
    2026,
    "2605.05341",
    people="Chaudhry, Faris and Yano, Keisuke and Monod, Anthea",
)
XU_2025 = Citation(
    "xu2025",
    "Xu et al.",
    "Beyond redundancy: diverse and specialized multi-expert sparse autoencoder",
    2025,
    "2511.05745",
    people="Xu, Zhen and Tan, Zhen and Wang, Song and Xu, Kaidi and Chen, Tianlong",
)
BHALLA_2025 = Citation(
    "bhalla2025",
    "Bhalla et al.",
    "Temporal sparse autoencoders: leveraging the sequential nature of language for interpretability",
    2025,
    "2511.05541",
    people="Bhalla, Usha and Oesterling, Alex and Verdun, Claudio Mayrink and Lakkaraju, Himabindu and "
    "Calmon, Flavio P.",
)
YAO_2025 = Citation(
    "yao2025",
    "Yao and Du",
    "AdaptiveK sparse autoencoders: dynamic sparsity allocation for interpretable LLM representations",
    2025,
    "2508.17320",
    people="Yao, Yifei and Du, Mengnan",
)
SHI_2025 = Citation(
    "shi2025",
    "Shi et al.",
    "Route sparse autoencoder to interpret large language models",
    2025,
    "2503.08200",
    people="Shi, Wei and Li, Sihang and Liang, Tao and Wan, Mingyang and Ma, Guojun and Wang, Xiang and He, Xiangnan",
)
LEVINSON_2026 = Citation(
    "levinson2026",
    "Levinson",
    "MetaSAEs: joint training with a decomposability penalty produces more atomic sparse autoencoder latents",
    2026,
    "2604.03436",
    people="Levinson, Matthew",
)
CHANIN_2026 = Citation("chanin2026", "Chanin et al.", "SynthSAEBench", 2026, "2602.14687")
DENG_2026 = Citation(
    "deng2026",
    "Deng et al.",
    "Decompose sparsely where you should, absorb densely where you should not",
    2026,
    "2606.14040",
)
WANG_2025 = Citation(
    "wang2025", "Wang et al.", "Attention layers add into low-dimensional residual subspaces", 2025, "2508.16929"
)
DUNEFSKY_2024 = Citation(
    "dunefsky2024",
    "Dunefsky et al.",
    "Transcoders find interpretable LLM feature circuits",
    2024,
    "2406.11944",
    people="Dunefsky, Jacob and Chlenski, Philippe and Nanda, Neel",
)
PAULO_2025 = Citation(
    "paulo2025",
    "Paulo et al.",
    "Transcoders beat sparse autoencoders for interpretability",
    2025,
    "2501.18823",
    people="Paulo, Gonçalo and Shabalin, Stepan and Belrose, Nora",
)
LINDSEY_2024 = Citation(
    "lindsey2024",
    "Lindsey et al.",
    "Sparse crosscoders for cross-layer features and model diffing",
    2024,
    venue="Transformer Circuits Thread",
    people="Lindsey, Jack and Templeton, Adly and Marcus, Jonathan and Conerly, Thomas and Batson, Joshua and "
    "Olah, Christopher",
)
AMEISEN_2025 = Citation(
    "ameisen2025",
    "Ameisen et al.",
    "Circuit tracing: revealing computational graphs in language models",
    2025,
    venue="Transformer Circuits Thread",
    people="Ameisen, Emmanuel and Lindsey, Jack and Pearce, Adam and Gurnee, Wes and Turner, Nicholas L. and "
    "Chen, Brian and Citro, Craig and Abrahams, David and Carter, Shan and Hosmer, Basil and Marcus, "
    "Jonathan and Sklar, Michael and Templeton, Adly and Bricken, Trenton and McDougall, Callum and "
    "Cunningham, Hoagy and Henighan, Thomas and Jermyn, Adam and Jones, Andy and Persic, Andrew and Qi, "
    "Zhenyi and Thompson, T. Ben and Zimmerman, Sam and Rivoire, Kelley and Conerly, Thomas and Olah, "
    "Chris and Batson, Joshua",
)
