"""The classical dictionary learners by name: a new one is a function and a line here."""

from monosem.base.registry import Registry
from monosem.dictionary.atoms import Learner
from monosem.dictionary.ica import fast_ica
from monosem.dictionary.itkrm import itkrm
from monosem.dictionary.ksvd import ksvd
from monosem.dictionary.mod import mod
from monosem.dictionary.online import batch_lasso, online

CLASSICAL: Registry[Learner] = Registry("classical learner")
CLASSICAL.add("ksvd", ksvd)
CLASSICAL.add("mod", mod)
CLASSICAL.add("itkrm", itkrm)
CLASSICAL.add("online", online)
CLASSICAL.add("batch_lasso", batch_lasso)
CLASSICAL.add("fast_ica", fast_ica)
