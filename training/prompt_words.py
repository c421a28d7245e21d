"""Make the lists of words by which prompts are checked.

    python prompt_words.py WORK TO      # writes TO/prompt-words.json

Obscene words come from the "List of Dirty, Naughty, Obscene, and Otherwise Bad Words" (LDNOOBW,
CC BY 4.0, npm `naughty-words`). Left out are those that also mean something to draw: what
`glossary.tsv.gz` in TO or a list of common English words has, but for the English list itself. What
else is looked for is in OWN. Nobody should have to read this file.

In OWN `girl{,s}` stands for girl and girls, and a star for any ending. `~` marks a word that is
English too, with a harmless meaning, or a name: it counts beside another word of its language only.
"""

# Lists in many scripts: their letters look alike, and some are twice as wide as Latin ones.
# ruff: noqa: E501, RUF001

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

PACKAGE = "naughty-words"
LANGUAGES = ("en", "es", "pt", "fr", "de", "it", "nl", "pl", "ru", "tr", "ja", "zh", "ko")
# English words of the list that people write about pictures without meaning them.
INNOCENT = {
    *("snowballing", "domination", "eunuch", "suck", "sucks", "humping", "spunk", "escort"),
    *("sexy", "butt", "poof", "queer", "twink", "kinky", "pimp", "ass", "girl on", "hooker"),
    *("jelly donut", "big black", "huge fat", "tied up", "how to kill", "how to murder", "negro"),
    *("tight white", "taste my", "tongue in a", "twinkie", "wrapping men", "coon", "coons", "xx"),
    *("snatch", "swinger", "skeet", "clover clamps", "tainted love", "pleasure chest", "scat"),
    *("hot chick", "dog style", "wrinkled starfish", "violet wand", "lemon party", "blue waffle"),
    *(
        "beaver lips",
        "dirty pillows",
        "chocolate rosebuds",
        "piece of shit",
        "folle",
        "pompa",
        "tirare",
        "fica",
        "figa",
        "13",
    ),
}
SEXUAL = {
    "en": """nude{,s} nudity nudist{,s} nudism naked nakedness topless undress undressed undressing
        unclothed unclad disrobed disrobing nsfw erotic erotica erotically hentai ecchi lewd lewds
        porn* sex sexual sexually sexualis* sexualiz* fetish{,es} full_frontal in_the_buff
        birthday_suit csam lolicon{,s} shotacon jailbait pthc bare_{ass,bottom,butt,bum,breast,breasts,breasted} skinny_dipping striptease
        nip_slip deepnude clothes_off xrated x_rated pr0n pr0nz pr0no wearing_nothing""",
    "es": """desnud* encuerad* en_cueros en_pelotas en_bolas pelad{o,a,os,as} erotic* erotismo porno*
        sexo sexual sexuales sexualmente""",
    "pt": """~nu ~nus nua{,s} pelad{o,a,os,as} peladinh* despid{o,a,os,as} nudez erotic* porno* sexo
        sexual sexuais""",
    "fr": """~nu ~nus nue{,s} nudite{,s} denud* deshabill* devetu* erotique{,s} erotisme porno*
        sexe{,s} sexuel* a_poil""",
    "de": """nackt* nackig* nacked* splitternackt* halbnackt* unbekleidet* entbloss* entkleidet*
        ausgezogen* erotik* erotisch* porno* sex sexuell* oben_ohne fkk""",
    "it": """~nudo nud{a,i,e} ignud{o,a,i,e} nudita spogliat* svestit* denudat* erotic* erotismo porno*
        sesso sessual*""",
    "ru": """гол{ая,ый,ое,ой,ого,ому,ую,ым,ых,ые,ом,ыми,енькая,енький,енькие,ышом,ышка,ышки,ыши,ыш}
        обнажен* обнаж* раздет* раздев* наг{ая,ой,ие,их,ую,ого,ишом} эрот* порн* секс* топлес*
        нюд* ню хентай неглиже""",
    "ja": "裸 全裸 半裸 はだか ハダカ ヌード すっぽんぽん 脱衣 エロ エッチ ポルノ セックス ロリコン 性的 性行為 春画",
    "zh": """裸 赤身 一丝不挂 一絲不掛 脱光 脫光 没穿衣服 沒穿衣服 不穿衣服 光着身子 光著身子 光屁股
        色情 情色 做爱 做愛 性爱 性愛 性交 性行为""",
    "ko": "누드* 나체* 알몸* 벌거벗* 발가벗* 에로* 포르노* 섹스* 야한 성적인",
}
# What is nothing to refuse by itself, and is beside a child.
SUGGESTIVE = {
    "en": """sexy sexier sexiest seductive* sensual* provocative* suggestive* lingerie thong{,s}
        g_string{,s} pant{y,ies} underwear undies bra bras negligee fishnet{,s} cleavage bottomless
        breast{,s} boob{,s} nipple{,s} butt butts ass thigh{,s}_spread spread_legs legs_spread
        stripping stripper{,s} upskirt shirtless bare_chest{,ed}
        {without,no,no_more,wearing_no,with_no}_{clothes,clothing,dress,underwear,panties,pants}
        without_{any,her,his,their}_{clothes,clothing} no_shirt
        {take,takes,taking,took}_off_{her,his,their}_{clothes,dress,shirt,pants} sultry horny kinky
        see_through aroused arousing arousal molest* grope{,d,s} hot_{teen,teens,schoolgirl} love_making
        making_love intimate_parts private_parts genital* crotch bedroom_eyes slutty twink{,s}""",
    "es": """sexy{,s} sensual* provocativ* seductor* lenceria ropa_interior braga{,s} tanga{,s} sujetador
        sin_ropa{,s} sin_vestir ligera_de_ropa senos pechos nalgas culo""",
    "pt": """sexy sensual* sensuais provocante{,s} lingerie calcinha{,s} sutia roupa_intima
        roupa_de_baixo sem_roupa{,s} seios bunda fio_dental""",
    "fr": """sexy sensuel* provocant* lingerie culotte{,s} sous_vetement{,s} ~string{,s}
        sans_{vetement,vetements,habit,habits} seins fesses nuisette{,s} torse_nu""",
    "de": """sexy sinnlich* aufreizend* unterwasche ~dessous ~slip schlupfer hoschen tanga
        ohne_{kleid,kleider,kleidung,klamotten} busen bruste popo hintern""",
    "it": """sexy sensual* provocant* lingerie biancheria_intima intimo mutandin{a,e} perizoma
        senza_{vestiti,abiti} reggiseno seno culo""",
    "ru": """сексапил* чувственн* соблазн* нижнем_белье нижнее_белье трусик{и,ах,ов} трусы
        трусах стринг* без_{одежды,трусов,трусиков,платья}""",
    "ja": "下着 ランジェリー パンティ 服を着てい 服を脱 服なし セクシー 官能 胸をはだけ おっぱい",
    "zh": "性感 内衣 內衣 内裤 內褲 丁字裤 透视装 没有衣服 沒有衣服 乳房 诱惑 誘惑",
    "ko": "섹시* 속옷* 란제리* 팬티* 옷을_벗* 옷_벗* 옷_없는 옷을_입지*",
}
MINORS = {
    "en": """child{,s,like} children childrens kid{,s} kiddo kiddie{,s} kiddy boy{,s} girl{,s} girlie
        schoolgirl{,s} schoolboy{,s} schoolchild schoolchildren schoolkid{,s} schooler{,s}
        teen{,s} teenage teenaged teenager{,s}
        {girl,kid,boy,teen}z {gurl,grl,grrl}{,s,z} youth{,s} teeny teenie toddler{,s} infant{,s} baby babies newborn{,s} preteen{,s} pre_teen{,s}
        tween{,s} youngster{,s} young_ones little_one{,s} adolescent{,s} juvenile{,s} pubescent
        prepubescent underage underaged under_age minor{,s} jailbait csam pthc lol{i,is,icon,icons,ita,itas}
        shot{a,as,acon} daughter{,s} stepdaughter{,s} granddaughter{,s} grandson{,s} niece{,s}
        {little,kid,baby}_{sister,sisters,brother,brothers} {kindergart,nurser}{en,y}
        kindergarten{er,ers} kindergartner{,s} {junior,middle,elementary,primary,grade,high}_school preschool{,er,ers}
        {first,second,third,fourth,fifth,sixth,seventh,eighth,ninth}_grader{,s} barely_legal
        {1st,2nd,3rd,4th,5th,6th,7th,8th,9th,10th,11th}_grader{,s}
        {under,below}_{age,18,eighteen,17,seventeen,16,sixteen,15,fifteen,14,fourteen,13,thirteen}
        {younger,less}_than_{18,eighteen,17,seventeen,16,sixteen} pedo pedos pedophil* paedophil*
        tiny_tot{,s} tot tots lass lasses lassie lad lads
        lolita_{fashion,dress,dresses,style,skirt,skirts,costume,outfit} {gothic,sweet}_lolita
        sex_of_{the,our,your,their}_baby""",
    "es": """ni\u00f1{o,a,os,as,ito,ita,itos,itas} ~nin{o,a} nin{os,as} menores menor{,es}_de_edad
        menor_de_{18,16,15,14} adolescente{,s} colegial{a,as,es} escolares muchach{o,a,os,as}
        muchachit* chic{a,as,os} ~chico chiquill{o,a,os,as} chiquit{a,as} bebe{,s} bebit* infantil{,es}
        nene{,s} nena{,s} crio{,s} quinceanera{,s} pube{r,res} hija{,s} preadolescente{,s} parvul*""",
    "pt": """crianca{,s} criancinha{,s} menin{o,a,os,as} menininh* garot{o,a,os,as} garotinh* bebe{,s}
        bebezinh* menor{,es}_de_idade novinha{,s} infantil infantis adolescente{,s} moleque{,s}
        guri{,a,as,s} filha{,s} filhinha{,s} ninfeta{,s} pre_adolescente{,s}""",
    "fr": """enfant{,s} enfantin* fillette{,s} fille{,s} garcon{,s} garconnet{,s} gamin{,e,s,es}
        bebe{,s} ~ado ados adolescent{,e,s,es} mineur{,e,s,es} ecolier{,e,s,es}
        lyceen{,ne,s,nes} collegien* nourrisson{,s} gosse{,s} marmot{,s} bambin{,s} mome{,s}""",
    "de": """~kind ~kinder kindern kindes kindlich* kleinkind* schulkind* madchen* maedchen* madel{,s}
        maedel{,s} junge jungen jungs bub buben bubchen knabe{,n} baby babys saugling* teenager*
        teenie{,s} jugendlich* minderjahrig* minderjaehrig* schuler* schueler* tochter tochterchen""",
    "it": """bambin{o,a,i,e} ragazz{o,a,i,e} ragazzin* neonat{o,a,i,e} adolescent{e,i} minorenn{e,i}
        ~bimb{o,a} bimb{i,e} bimbett* fanciull* scolar{a,e,i} liceal{e,i} figlia figlie pargol*
        infante infanti infantil{e,i}
        {dodic,tredic,quattordic,quindic,sedic,diciassett}enn*""",
    "ru": """девоч* мальчи* дет{и,ей,ям,ях,ьми,ка,ки,ишки} детск* ребен{ок,ка,ку,ком,ке,очек} ребят{а,ам}
        ребятиш* малыш* младен* подросток подростк* школьни* девчон* девчуш* девчат* пацан*
        несовершеннолет* малолет* лолит* лоли юниц* дочк* дочь дочер* внучк* тинейдж* грудничк*
        {пяти,шести,семи,восьми,девяти,десяти,одиннадцати,двенадцати,тринадцати}летн*
        {четырнадцати,пятнадцати,шестнадцати,семнадцати}летн*""",
    "uk": "дитин* діти дітей дівч* хлопч* підлітк* неповноліт* школяр*",
    "ja": """少女 少年 女の子 男の子 おんなのこ おとこのこ 子供 子ども こども 児童 幼女 幼児 幼い 赤ちゃん 赤ん坊 赤子
        乳児 女児 男児 園児 小学生 中学生 高校生 女子高生 女子校生 女学生 未成年 ロリ ショタ 幼い娘 ティーン 十代""",
    "zh": """女孩 男孩 孩子 小孩 孩童 儿童 兒童 少女 少年 幼女 幼童 幼儿 幼兒 婴儿 嬰兒 宝宝 寶寶 小学生 小學生
        初中生 中学生 中學生 高中生 女学生 女學生 学生妹 未成年 萝莉 蘿莉 正太 女童 男童 小朋友 小妹妹 小弟弟 小女生
        小男生 女儿 女兒 女娃 男娃""",
    "ko": """소녀* 소년* 아이 아이가 아이들* 아이의 어린이* 어린애* 아기* 여자아이* 남자아이* 미성년* 여고생* 여중생*
        초등학생* 중학생* 고등학생* 로리 청소년* 유아*""",
}
OWN = {
    "sexual": SEXUAL,
    "suggestive": SUGGESTIVE,
    "minors": MINORS,
    "gore": {
        "en": """gore gory beheading beheaded decapitated decapitation dismembered dismemberment
            mutilated mutilation disemboweled disembowelled severed_{head,heads,limb,limbs}
            intestines_spilling corpse corpses""",
        "es": "decapitad{o,a,os,as} descuartizad{o,a,os,as} mutilad{o,a,os,as}",
        "pt": "esquartejad{o,a,os,as}",
    },
    "hate": {
        "en": """swastika{,s} nazi{,s} heil_hitler hitler white_power white_supremac{y,ist,ists}
            ku_klux_klan kkk ethnic_cleansing gas_the_{jews,kikes} lynching{,s} lynched lynch_mob{,s}""",
        "es": "esvastica{,s}",
        "pt": "suastica{,s}",
        "de": "hakenkreuz{,e,en}",
    },
    "self-harm": {
        "en": """suicide suicidal kill_myself killing_{herself,himself} {hang,hangs,hanging,hanged,hung}_{himself,herself,myself,themselves}
            self_harm self_harming {slit,cutting,slitting}_wrists""",
        "es": "suicidio suicidarse",
        "de": "selbstmord",
    },
}
# What that list lacks.
OBSCENE = {"en": "raped raping gang_rape{,d,s}", "ru": "пизд*"}
# Phrases that say something else than their words. `#` stands for a number. One that OWN has too
# is what that says, and its words are not.
HARMLESS = """naked_mole_{rat,rats} naked_molerat{,s}
    naked_eye naked_cake{,s} naked_{oats,juice}
    naked_{tree,trees,branch,branches,bulb,flame}
    nude_{lipstick,lipsticks,lip,lips,nail,nails,heels,pumps,shoe,shoes,makeup,palette}
    nude_{tone,tones,color,colors,colour,colours,shade,shades,beige,pink} nude_make_up
    bottomless_{pit,brunch,well,bag,sea,ocean,coffee} topless_tower{,s}
    pussy_{willow,willows,cat,cats,riot,foot}
    {blue,great,coal,marsh,willow,crested,tufted,long_tailed}_{tit,tits} titmouse tit_{bird,birds}
    cock_a_doodle_doo cock_robin cock_of_the_rock
    suicide_{squad,door,doors} al_gore gore_tex
    {c,d,e,f,g,b}_{minor,flat_minor,sharp_minor} {ursa,asia,canis,leo}_minor
    minor_{key,keys,chord,chords,scale,scales,league,leagues,planet,planets,detail,details}
    minor_{character,characters,arcana,injury,change,changes,third,damage,scratches,scratch}
    baby_{blue,pink,grand,carrot,carrots,corn,spinach,shower} baby_blue_{eyes,eye}
    lolita_{fashion,dress,dresses,style,skirt,skirts,costume,outfit} {gothic,sweet}_lolita
    shota_rustaveli sex_of_{the,our,your,their}_baby super_bowl_xxx xxx_large xxx_{l,xl}
    {field,fields}_of_rape rape_{field,fields,seed,seeds,flower,flowers,plant,plants,blossom,oil}
    {field,fields}_of_{yellow,blooming,flowering}_rape oilseed_rape spic_and_span
    pau_de_{madeira,selfie,canela,fita,bambu,chuva} {colher,perna,cara}_de_pau pau_brasil
    {hindu,buddhist,buddha,jain}_{,temple_}{swastika,swastikas}
    {swastika,swastikas}_{in,on,at}_a_{hindu,buddhist,jain}_{temple,shrine}
    wearing_nothing_{special,fancy,new,unusual}
    no_kidding kid_leather kid_gloves kid_rock beach_boys pet_shop_boys
    child_of_the_universe
    {chicken,duck,turkey,goose}_{breast,breasts} breast_{stroke,pocket,plate}
    {comic,film,paint,cartoon,landing,light,led,runway,magnesium,bacon}_{strip,strips} strip_mall
    strip_of_{paper,bacon,film} string_{quartet,instrument,bean,beans}
    same_sex {fair,opposite,unfair}_sex sex_pistols sex_and_the_city
    horny_{toad,toads,lizard} moby_dick dick_tracy dick_whittington van_dyke_beard spotted_dick
    wild_ass jack_ass cigarette_butt{,s} butt_joint water_butt head_butt
    lace_thong_sandal{,s} thong_sandal{,s} see_through_{window,glass,umbrella,jellyfish,wings}
    #_{year,years,yr,yrs}_old_{oak,tree,trees,whisky,whiskey,scotch,rum,wine,port,cognac,house,car}
    #_{year,years,yr,yrs}_old_{oak_tree,pine_tree,castle,church,city,town,dog,cat,cheese,cheddar}
    piedi_nudi pieds_nus pies_desnudos pes_nus occhio_nudo oeil_nu olho_nu ojo_desnudo
    nacktmull* nacktschnecke* nacktsam*
    jung{e,en,er,es}_{frau,frauen,mann,manner,mannes,dame,damen,leute,menschen,katze,katzen,hund,hunde}
    kind_of kind_of_a poil_{long,court,dur,ras} a_poil_{long,court,dur,ras}
    ratopin_rata_desnuda rata_topo_desnuda toupeira_nua rato_toupeira_nu rat_taupe_nu
    голый_землекоп голого_землекопа"""
# The same in scripts without spaces.
HARMLESS_RUN_ON = """裸足 裸眼 裸子植物 裸電球 裸麦 裸一貫 ハダカデバネズミ 裸鼹鼠 裸鼴鼠 裸机 裸機 裸车 カロリー ロリポップ
    エロイカ 娘々 エッチング ヒエログリフ ヒエロ メロエ 裸粒 小娘々 子供服 子供部屋 椅子供 菓子供 少年ジャンプ 性感染"""
# Obscene beside people or anything else on the lists only: each is an animal, a name or a thing too.
DOUBLE = "cock cocks tit dick dicks prick pricks pussies"
COMPANY = """man men woman women lady ladies guy guys his her my your he she him they person
    people huge big giant hard erect throbbing dripping wet tight suck sucks sucking ride riding
    lick licking eat eating girlfriend boyfriend wife husband model mistress dude bitch"""
# Of each language, what tells that a prompt may be in it; beside its words above.
SMALL = {
    "es": "un una el la los las de del con en y sin mujer hombre",
    "pt": "um uma o os do da dos das no na com sem e mulher homem",
    "fr": "un une le la les des du et avec sur sans homme femme hommes femmes dans jeune petit petite",
    "de": "ein eine einem einen einer das der den dem und mit im ohne auf am kleines frau mann",
    "it": "il gli uno senza uomo uomini donna donne piccolo piccola ragazzo",
}


def bare(text: str) -> str:
    """Lower case without accents, as the check compares."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c for c in parts if not unicodedata.combining(c) or c in "\u3099\u309a")
    return unicodedata.normalize("NFC", kept).strip()


def spelled(text: str) -> list[str]:
    """Return the words and phrases that a list stands for, bare."""
    found: set[str] = set()
    waiting = text.split()
    while waiting:
        word = waiting.pop()
        braces = re.search(r"\{([^{}]*)\}", word)
        if braces is None:
            found.add(word.replace("_", " "))
            continue
        head, tail = word[: braces.start()], word[braces.end() :]
        waiting += [head + each + tail for each in braces[1].split(",")]
    return sorted({bare(word) for word in found})


def is_meant(word: str, listed: str) -> bool:
    """Whether a word of a list, which may end in a star, stands for this one."""
    return word.startswith(listed[:-1]) if listed.endswith("*") else word == listed


def obscene(work: Path, to: Path) -> dict[str, list[str]]:
    """Language -> the words of LDNOOBW that name nothing to draw."""
    if not (found := sorted(work.glob(f"{PACKAGE}-*.tgz"))):
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=work, check=True)
        found = sorted(work.glob(f"{PACKAGE}-*.tgz"))
    text = gzip.decompress((to / "glossary.tsv.gz").read_bytes()).decode()
    rows = [row.split("\t") for row in text.splitlines()]
    drawn = {bare(word) for _, word, _, _ in rows}
    drawn |= {bare(word) for _, _, _, english in rows for word in english.split()}
    drawn |= set((to / "icons-vocab.txt").read_text().split())
    chosen: dict[str, list[str]] = {}
    doubtful = set(spelled(DOUBLE))
    # What is told as sexual already may be allowed by itself.
    sexual = [word for words in SEXUAL.values() for word in spelled(words)]
    with tarfile.open(found[-1]) as tar:
        for language in LANGUAGES:
            listed = json.loads(tar.extractfile(f"package/{language}.json").read())
            words = {bare(word) for word in listed} - doubtful
            words -= INNOCENT if language == "en" else INNOCENT | drawn
            words = {word for word in words if not any(is_meant(word, one) for one in sexual)}
            words |= set(spelled(OBSCENE.get(language, "")))
            chosen[language] = sorted(word for word in words if len(word) > 1)
    return chosen


def main(work: Path, to: Path) -> None:
    lists = {name: {lang: spelled(w) for lang, w in own.items()} for name, own in OWN.items()}
    lists["obscene"] = obscene(work, to)
    lists["obscene?"] = {"en": spelled(DOUBLE)}
    lists["company"] = {"en": spelled(COMPANY)}
    lists["small"] = {language: spelled(words) for language, words in SMALL.items()}
    lists["harmless"] = {"en": spelled(f"{HARMLESS} {HARMLESS_RUN_ON}")}
    text = json.dumps(lists, ensure_ascii=False, indent=0)
    (to / "prompt-words.json").write_text(text + "\n", encoding="utf-8")
    print({name: sum(map(len, words.values())) for name, words in lists.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
