"""Works that plug-ins of several kinds cite, as BibTeX. A work that one file alone cites stands in that file."""

from __future__ import annotations

FASTMRI = """
    @misc{zbontar2018fastmri,
        author = {Zbontar, Jure and Knoll, Florian and Sriram, Anuroop and Murrell, Tullie and Huang, Zhengnan and
            Muckley, Matthew J. and Defazio, Aaron and Stern, Ruben and Johnson, Patricia and Bruno, Mary and
            Parente, Marc and Geras, Krzysztof J. and Katsnelson, Joe and Chandarana, Hersh and Zhang, Zizhao and
            Drozdzal, Michal and Romero, Adriana and Rabbat, Michael and Vincent, Pascal and Yakubova, Nafissa and
            Pinkerton, James and Wang, Duo and Owens, Erich and Zitnick, C. Lawrence and Recht, Michael P. and
            Sodickson, Daniel K. and Lui, Yvonne W.},
        title = {{fastMRI}: An Open Dataset and Benchmarks for Accelerated {MRI}},
        howpublished = {arXiv:1811.08839},
        year = {2018}
    }
"""

SPARSE_MRI = """
    @article{lustig2007sparse,
        author = {Lustig, Michael and Donoho, David and Pauly, John M.},
        title = {Sparse {MRI}: The Application of Compressed Sensing for Rapid {MR} Imaging},
        journal = {Magnetic Resonance in Medicine},
        volume = {58},
        number = {6},
        pages = {1182--1195},
        year = {2007},
        doi = {10.1002/mrm.21391}
    }
"""

CUBIC_CONVOLUTION = """
    @article{keys1981cubic,
        author = {Keys, Robert G.},
        title = {Cubic Convolution Interpolation for Digital Image Processing},
        journal = {IEEE Transactions on Acoustics, Speech, and Signal Processing},
        volume = {29},
        number = {6},
        pages = {1153--1160},
        year = {1981},
        doi = {10.1109/TASSP.1981.1163711}
    }
"""

FEDMRI = """
    @article{feng2023fedmri,
        author = {Feng, Chun-Mei and Yan, Yunlu and Wang, Shanshan and Xu, Yong and Shao, Ling and Fu, Huazhu},
        title = {Specificity-Preserving Federated Learning for {MR} Image Reconstruction},
        journal = {IEEE Transactions on Medical Imaging},
        volume = {42},
        number = {7},
        pages = {2010--2021},
        year = {2023},
        doi = {10.1109/TMI.2022.3202106}
    }
"""
