"Everything that describes the package stands in `settings.ini`; this file only hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
extras = {key.removesuffix('_requirements'): names.split() for key, names in cfg.items()
          if key.endswith('_requirements')}
docs = Path('README.md').read_text(encoding='utf-8')

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=docs, long_description_content_type='text/markdown',
    packages=find_packages(include=['diffuseseg', 'diffuseseg.*']),
    package_data={'diffuseseg': ['weights/*/*', 'examples/*', 'labelling/page.*']},
    include_package_data=False, zip_safe=False,
    python_requires=f'>={cfg["min_python"]}',
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f'{cfg["lib_name"]}={cfg["lib_name"]}._modidx:d']},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'])
